"""Encoders from everywhere: features must be those of the program that wrote the weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import VideoMAEConfig as HFConfig
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.toml import dump
from schemas.workspace import Workspace
from train.models.cubes import normalise
from train.models.objective import Objective
from train.models.sizes import VideoMAEConfig, model_config
from train.models.videomae import Classifier, Encoder, PretrainModel
from train.models.weight_files import weights_digest, weights_to_evaluate
from train.models.weights import load_encoder, load_into, read_weights
from train.pretrain import MODEL, run_pretrain, save_module
from train.probe import run_probe
from train.specs import pretrain_spec

torch.set_num_threads(1)

Small = Callable[..., Experiment]
# The tiny preset at a small picture, in our words and in transformers'.
CONFIG = VideoMAEConfig.preset("tiny", image_size=32, frames=4)
TINY = {"image_size": 32, "patch_size": 8, "num_frames": 4, "hidden_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 3, "intermediate_size": 384, "decoder_hidden_size": 64, "decoder_intermediate_size": 256,
        "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2, "layer_norm_eps": 1e-6}  # fmt: skip


def randomise(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    return module.eval()


def clip_of(config: VideoMAEConfig = CONFIG) -> Tensor:
    return torch.randint(0, 256, (2, config.frames, config.image_size, config.image_size, 3), dtype=torch.uint8)


def features(encoder: Encoder, clip: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = encoder.eval()(clip)
    return out


def write_run(folder: Path, model: nn.Module, **changes: Any) -> Path:
    """The folder of a run that has ended with these weights."""
    folder.mkdir(parents=True)
    experiment = Experiment.model_validate({
        "workspace": ".", "clip": {"frames": 4, "size": 32}, "mask": {"kind": "tube"},
        "model": {"size": "tiny", "patch": 8, **changes},
    })  # fmt: skip
    (folder / "config.toml").write_text(dump(experiment))
    save_module(folder / MODEL, model)
    return folder


def release(model: nn.Module, *, under: str, half: bool = False, bare: bool = False, wrap: str = "") -> dict[str, Any]:
    """What VideoMAE's own code stores: weights among the optimiser, the epoch and the command line."""
    state = {
        wrap + (name.removeprefix("encoder.") if bare else name): tensor.half() if half else tensor
        for name, tensor in model.state_dict().items()
    }
    return {under: state, "optimizer": {"state": {}}, "epoch": 799, "args": argparse.Namespace(lr=1.5e-4, name="x")}


@pytest.mark.parametrize("kind", [VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel])
@given(frames=st.sampled_from((2, 4)), layers=st.integers(1, 2), heads=st.integers(1, 3), shards=st.booleans())
@settings(max_examples=6)
def test_any_transformers_folder(kind: Any, frames: int, layers: int, heads: int, shards: bool) -> None:
    size = {**TINY, "num_frames": frames, "num_hidden_layers": layers, "num_attention_heads": heads}
    mean = kind is VideoMAEForVideoClassification
    reference = randomise(kind(HFConfig(**size, use_mean_pooling=mean)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference.save_pretrained(folder, max_shard_size="100KB" if shards else "5GB")  # type: ignore[operator]
        assert (folder / "model.safetensors").exists() != shards
        weights = read_weights(folder)
        encoder = load_encoder(folder, weights.config)
    clip = clip_of(encoder.config)
    base: Any = getattr(reference, "videomae", reference)
    with torch.no_grad():
        expected = base(normalise(clip).permute(0, 1, 4, 2, 3)).last_hidden_state
    torch.testing.assert_close(features(encoder, clip), expected, atol=1e-5, rtol=1e-5)
    assert ("norm.weight" in weights.encoder) != mean and not weights.ignored
    assert ("mask_token" in weights.state) == (kind is VideoMAEForPreTraining)
    assert ("head.weight" in weights.state) == (kind is VideoMAEForVideoClassification)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("under", "wrap"), [("model", ""), ("module", ""), ("state_dict", ""), ("model", "module.")])
def test_a_file_in_videomaes_format(tmp_path: Path, under: str, wrap: str, half: bool) -> None:
    """Pretraining's names are ours; fine-tuning's are bare and come without a final norm."""
    pretrain, classifier = PretrainModel(CONFIG), Classifier(CONFIG, 5)
    for number, model in enumerate((pretrain, classifier)):
        randomise(model)
        path = tmp_path / f"{number}.pth"
        torch.save(release(model, under=under, half=half, bare=model is classifier, wrap=wrap), path)
        weights = read_weights(path, CONFIG)
        encoder = load_encoder(path, CONFIG)
        assert (weights.config.heads, weights.config.grid) == (CONFIG.heads, CONFIG.grid)  # which no shape says
        assert weights.sha256 == weights_digest(path) and weights.state.keys() == model.state_dict().keys()
        assert all(tensor.dtype == torch.float32 for tensor in weights.state.values())
        if not half:
            clip = clip_of()
            assert isinstance(model.encoder, Encoder)
            assert torch.equal(features(encoder, clip), features(model.encoder, clip))
            assert isinstance(encoder.norm, nn.Identity) == (model is classifier)


def test_sizes_of_a_release_file_are_those_of_its_shapes(tmp_path: Path) -> None:
    """Without an experiment to say them, frames and picture are VideoMAE's, and heads those of its presets."""
    config = VideoMAEConfig.preset("small", depth=1, decoder_depth=3)
    torch.save({"model": PretrainModel(config).state_dict()}, tmp_path / "small.pth")
    found = read_weights(tmp_path / "small.pth").config
    assert (found.heads, found.decoder_heads, found.decoder_depth) == (6, 3, 3)
    assert found.grid == (8, 14, 14) and (found.eps, found.head_eps) == (1e-6, 1e-6)


def test_a_run_of_ours_pretrained_and_fine_tuned(tmp_path: Path) -> None:
    pretrain, classifier = randomise(PretrainModel(CONFIG)), randomise(Classifier(CONFIG, 5))
    clip = clip_of()
    for name, model in (("a", pretrain), ("a/finetune", classifier)):
        folder = write_run(tmp_path / name, model)
        weights = read_weights(folder)
        assert weights.config == CONFIG and "a run of tgmae" in weights.source
        assert isinstance(model.encoder, Encoder)
        assert torch.equal(features(load_encoder(folder, CONFIG), clip), features(model.encoder, clip))


def test_frames_may_differ_for_positions_of_the_first_are_the_same(tmp_path: Path) -> None:
    model = randomise(PretrainModel(CONFIG))
    longer = load_encoder(write_run(tmp_path / "a", model), dataclasses.replace(CONFIG, frames=8))
    assert isinstance(model.encoder, Encoder)
    assert torch.equal(longer.positions[:, : CONFIG.tokens], model.encoder.positions)
    assert torch.equal(longer.blocks[0].attn.q_bias, model.encoder.blocks[0].attn.q_bias)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 192}, "the encoder has in_chans 3, dim 96, depth 4, heads 3, mlp_dim 384: set model.size = 'tiny'"),
        ({"depth": 5}, "set model.size = 'tiny'"),
        ({"tubelet": 1}, "tubelet is 2, not 1: set model.tubelet = 2"),
        ({"image_size": 64}, "image_size is 32, not 64: set clip.size = 32"),
        ({"patch_size": 16}, "patch_size is 8, not 16: set model.patch = 8"),
    ],
)
def test_weights_of_other_sizes_name_the_key_to_set(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = write_run(tmp_path / "a", PretrainModel(CONFIG))
    with pytest.raises(UserError, match=message):
        load_encoder(folder, dataclasses.replace(CONFIG, **change))


def test_a_size_that_no_preset_has_is_said_to_be_one(tmp_path: Path) -> None:
    torch.save({"model": PretrainModel(dataclasses.replace(CONFIG, dim=48)).state_dict()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="dim 48, .*: none of model.size = tiny, small"):
        load_encoder(tmp_path / "x.pth", CONFIG)


def test_joint_weights_start_a_divided_encoder_as_timesformer_does(tmp_path: Path) -> None:
    joint = randomise(PretrainModel(CONFIG))
    folder, divided = write_run(tmp_path / "a", joint), dataclasses.replace(CONFIG, attention="divided")
    encoder = Encoder(divided)
    load_into(encoder, read_weights(folder))
    state = encoder.state_dict()
    for name, tensor in joint.encoder.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(state[name], tensor)
    assert state["blocks.0.temporal_attn.proj.weight"].abs().max() == 0
    other = write_run(tmp_path / "b", randomise(PretrainModel(divided)), attention="divided")
    with pytest.raises(UserError, match="attention is divided, not joint: set model.attention = 'divided'"):
        load_encoder(other, CONFIG)
    assert torch.equal(features(load_encoder(other, divided), clip_of())[0, 0].isfinite(), torch.ones(96).bool())


class Custom:
    """Stands for whatever code a pickle may run."""


def test_what_is_no_encoder_is_refused_with_a_reason(tmp_path: Path) -> None:
    state = PretrainModel(CONFIG).state_dict()
    without = {name: tensor for name, tensor in state.items() if name != "encoder.blocks.1.mlp.fc2.bias"}
    learned = {**state, "encoder.pos_embed": torch.zeros(1, 8, 96)}
    cases: dict[str, tuple[Any, str]] = {
        "code": ({"model": state, "extra": Custom()}, "holds more than tensors, and loading that can run code"),
        "empty": ([1, 2], "holds no state dict"),
        "other": ({"model": {"conv1.weight": torch.zeros(3)}}, "is not a VideoMAE encoder: .*such as conv1.weight"),
        "part": ({"model": without}, "blocks.1.mlp.fc2.bias is missing"),
        "learned": ({"model": learned}, "pos_embed is not a part of VideoMAE's encoder"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=message):
            read_weights(tmp_path / f"{name}.pth", CONFIG)
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    for path, message in ((tmp_path / "torn.pth", "cannot read the weights"), (tmp_path / "none", "no weights at")):
        with pytest.raises(UserError, match=message):
            read_weights(path)
    downloads = {
        "page": ("<!DOCTYPE html>\x1b[31m", r"begins with '<!DOCTYPE html>.*download the file itself"),
        "pointer": ("version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
    }
    for name, (content, said) in downloads.items():
        (tmp_path / f"{name}.pth").write_text(content)
        with pytest.raises(UserError, match=said) as refused:
            read_weights(tmp_path / f"{name}.pth")
        assert "trust" not in str(refused.value) and "\x1b" not in str(refused.value)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"hidden_act": "relu"}))
    with pytest.raises(UserError, match=r"config.json: config has hidden_act='relu'"):
        read_weights(tmp_path / "hf")


def test_parts_that_are_not_the_models_are_listed(tmp_path: Path) -> None:
    state = {**PretrainModel(CONFIG).state_dict(), "teacher.step": torch.tensor(3, dtype=torch.uint8)}
    torch.save({"model": state}, tmp_path / "x.pth")
    assert read_weights(tmp_path / "x.pth", CONFIG).ignored == ("teacher.step",)


def started(init: Path, **changes: Any) -> Objective:
    return Objective(Experiment.model_validate({
        "workspace": ".", "clip": {"frames": 4, "size": 32}, "mask": {"kind": "tube"},
        "model": {"size": "tiny", "patch": 8, "init": str(init)}, **changes,
    }), None)  # fmt: skip


def test_pretraining_starts_from_all_of_the_same_model_else_from_its_encoder(tmp_path: Path) -> None:
    model = randomise(PretrainModel(CONFIG))
    folder = write_run(tmp_path / "a", model)
    objective = started(folder)
    assert objective.start.startswith("encoder and decoder of ") and "sha256" in objective.start
    for name, tensor in model.state_dict().items():
        assert torch.equal(objective.model.state_dict()[name], tensor)
    for kind, other in ((model, {"objective": {"kind": "arvideo"}, "arvideo": {"cluster": [1, 2, 2]}}),
                        (randomise(Classifier(CONFIG, 5)), {})):  # fmt: skip
        folder = write_run(tmp_path / type(kind).__name__, kind)
        objective = started(folder, **other)
        assert objective.start.startswith("the encoder; the decoder starts from random weights of ")
        for name, tensor in kind.encoder.state_dict().items():  # type: ignore[union-attr]
            assert torch.equal(objective.model.encoder.state_dict()[name], tensor)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_from_weights_is_another_when_they_change_and_the_same_when_they_move(
    small: Small, tmp_path: Path
) -> None:
    model = randomise(PretrainModel(model_config(small())))
    torch.save({"model": model.state_dict()}, tmp_path / "a.pth")
    shutil.copy(tmp_path / "a.pth", tmp_path / "b.pth")
    torch.save({"model": PretrainModel(model_config(small())).state_dict()}, tmp_path / "c.pth")
    specs = {name: pretrain_spec(small(model={"init": str(tmp_path / f"{name}.pth")})) for name in "abc"}
    assert specs["a"].fingerprint == specs["b"].fingerprint != specs["c"].fingerprint
    assert "init" in specs["a"].inputs and "init" not in pretrain_spec(small()).inputs
    record = run_pretrain(small(model={"init": str(tmp_path / "a.pth")}, optim={"epochs": 1, "warmup_epochs": 0}))
    assert record.info["start"].startswith(f"encoder and decoder of {tmp_path / 'a.pth'}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_probe_without_pretraining_judges_the_given_weights(small: Small, tmp_path: Path) -> None:
    torch.save({"model": randomise(PretrainModel(model_config(small()))).state_dict()}, tmp_path / "a.pth")
    given = {"model": {"init": str(tmp_path / "a.pth")}}
    with pytest.raises(UserError, match="run `tgmae pretrain`, or take 'pretrain' out of `stages` to judge model.init"):
        run_probe(small(**given))
    with pytest.raises(UserError, match="or name the weights to judge in model.init .`stages` has no pretrain"):
        run_probe(small(stages=["probe"]))
    experiment = small(**given, stages=["probe"])
    assert weights_to_evaluate(experiment) == tmp_path / "a.pth"
    record = run_probe(experiment)
    assert record.inputs["init"] == weights_digest(tmp_path / "a.pth") and record.counts["test"] > 0
    assert not (Workspace(Path(experiment.workspace)).run(experiment.name) / MODEL).exists()
