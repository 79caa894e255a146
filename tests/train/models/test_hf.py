"""Weights and outputs against transformers' VideoMAE, which is used here and nowhere in train/."""

import json
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import VideoMAEConfig as HFConfig
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from train.models.cubes import IMAGENET_MEAN, IMAGENET_STD, cubes_from_clip, normalise
from train.models.hf import (
    config_from_hf,
    from_hf_classifier,
    from_hf_pretraining,
    load_hf,
    save_hf,
    to_hf_classifier,
    to_hf_pretraining,
)
from train.models.losses import reconstruction_loss
from train.models.sizes import VideoMAEConfig
from train.models.videomae import Classifier, PretrainModel

torch.set_num_threads(1)  # for tensors this small, threads wait longer than they work

TOLERANCE = 1e-5  # float32; measured below 4e-6 over these sizes


M = TypeVar("M", bound=nn.Module)


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, Any]:
    """Small configurations in transformers' words, the image mode (one frame) among them."""
    tubelet, patch = draw(st.integers(1, 2)), draw(st.sampled_from((4, 8)))
    heads, decoder_heads = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    return {
        "patch_size": patch,
        "image_size": patch * draw(st.integers(2, 4)),
        "tubelet_size": tubelet,
        "num_frames": tubelet * draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.sampled_from((4, 8))),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "intermediate_size": draw(st.sampled_from((16, 20))),
        "decoder_num_attention_heads": decoder_heads,
        "decoder_hidden_size": decoder_heads * 8,
        "decoder_num_hidden_layers": draw(st.integers(1, 2)),
        "decoder_intermediate_size": 24,
    }


def randomise(model: M) -> M:
    """Every parameter at random: at their initial zeros, biases would agree whatever one does."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.eval()
    return model


def pretrained(kind: Any, folder: Path) -> Any:
    """The class's own from_pretrained, failing on missing, unexpected or mismatched weights."""
    reference, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return reference.eval()


def clip_and_mask(config: VideoMAEConfig, hidden: float) -> tuple[Tensor, Tensor]:
    clip = torch.randint(0, 256, (2, config.frames, config.image_size, config.image_size, 3), dtype=torch.uint8)
    k = min(max(round(hidden * config.tokens), 1), config.tokens - 1)
    return clip, torch.rand(2, config.tokens).argsort(1) < k


def theirs(clip_BTHWC: Tensor) -> Tensor:
    return normalise(clip_BTHWC).permute(0, 1, 4, 2, 3)


@pytest.mark.medium
@given(sizes(), st.floats(0, 1), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=100)
def test_pretraining_equals_transformers(size: dict[str, Any], hidden: float, norm_pix: bool, seed: int) -> None:
    torch.manual_seed(seed)
    config = HFConfig(**size, layer_norm_eps=1e-6, use_mean_pooling=False, norm_pix_loss=norm_pix)
    reference = randomise(VideoMAEForPreTraining(config))
    model = from_hf_pretraining(reference.state_dict(), config.to_dict()).eval()
    clip, mask = clip_and_mask(model.config, hidden)
    with torch.no_grad():
        expected = reference(theirs(clip), mask)
        features = reference.videomae(theirs(clip)).last_hidden_state
        got = model(clip, mask)
        torch.testing.assert_close(model.encoder(clip), features, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(got.prediction_BMK, expected.logits, atol=TOLERANCE, rtol=TOLERANCE)
    cubes = cubes_from_clip(clip, model.config.patch_size, model.config.tubelet)
    loss = reconstruction_loss(got.prediction_BMK, cubes, got.hidden_index_BM, norm=norm_pix)
    torch.testing.assert_close(loss, expected.loss, atol=TOLERANCE, rtol=TOLERANCE)


@given(sizes(), st.integers(0, 2**31))
@settings(max_examples=20)
def test_classifier_equals_transformers(size: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    config = HFConfig(**size, layer_norm_eps=1e-6, id2label={i: str(i) for i in range(5)})
    reference = randomise(VideoMAEForVideoClassification(config))
    model = from_hf_classifier(reference.state_dict(), config.to_dict()).eval()
    clip, _ = clip_and_mask(model.config, 0.5)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), reference(theirs(clip)).logits, atol=TOLERANCE, rtol=TOLERANCE)


@given(sizes(), st.integers(0, 2**31))
@settings(max_examples=10)
def test_there_and_back_changes_nothing(size: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    config = config_from_hf(size, drop_path=0.1)
    pretrain, classifier = randomise(PretrainModel(config)), randomise(Classifier(config, 5))
    state, written, _ = to_hf_pretraining(pretrain)
    assert_same(from_hf_pretraining(state, written, drop_path=0.1), pretrain)
    state, written, _ = to_hf_classifier(classifier)
    assert_same(from_hf_classifier(state, written, drop_path=0.1), classifier)


def assert_same(a: PretrainModel | Classifier, b: PretrainModel | Classifier) -> None:
    assert a.config == b.config
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_a_saved_folder_loads_plainly_with_equal_outputs(tmp_path: Path, preset: str) -> None:
    torch.manual_seed(0)
    config = VideoMAEConfig.preset(preset, image_size=64, frames=4, depth=2, decoder_depth=2)
    model = PretrainModel(config).eval()
    nn.init.normal_(model.decoder.norm.bias)
    save_hf(tmp_path, model)
    reference = pretrained(VideoMAEForPreTraining, tmp_path)
    clip, mask = clip_and_mask(config, 0.75)
    with torch.no_grad():
        torch.testing.assert_close(
            model(clip, mask).prediction_BMK, reference(theirs(clip), mask).logits, atol=TOLERANCE, rtol=0
        )
    loaded = load_hf(tmp_path)
    assert isinstance(loaded, PretrainModel) and loaded.config == config


def test_a_saved_classifier_loads_plainly_with_its_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomise(Classifier(VideoMAEConfig.preset("tiny"), 3))
    save_hf(tmp_path, model, labels=["push", "pull", "spin"])
    reference = pretrained(VideoMAEForVideoClassification, tmp_path)
    assert reference.config.id2label == {0: "push", 1: "pull", 2: "spin"}
    clip, _ = clip_and_mask(model.config, 0.5)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), reference(theirs(clip)).logits, atol=TOLERANCE, rtol=TOLERANCE)
    assert isinstance(load_hf(tmp_path), Classifier)


def test_transformers_own_folder_loads_here(tmp_path: Path) -> None:
    """A folder by save_pretrained leaves defaults out of config.json and renames q_bias."""
    config = HFConfig(num_hidden_layers=1, image_size=32, decoder_num_hidden_layers=1, use_mean_pooling=False)
    reference = VideoMAEForPreTraining(config).eval()
    reference.save_pretrained(tmp_path)
    model = load_hf(tmp_path).eval()
    assert model.config.eps == 1e-12  # transformers' default, which its hub checkpoints were exported with
    clip, mask = clip_and_mask(model.config, 0.9)
    with torch.no_grad():
        expected = reference(theirs(clip), mask).logits
        torch.testing.assert_close(model(clip, mask).prediction_BMK, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_the_written_names_are_those_of_every_transformers_version(tmp_path: Path) -> None:
    save_hf(tmp_path, PretrainModel(VideoMAEConfig.preset("tiny", depth=1, decoder_depth=1)))
    names = set(load_file(tmp_path / "model.safetensors"))
    assert "videomae.encoder.layer.0.attention.attention.q_bias" in names
    assert not any("position" in name or "qkv" in name or "query.bias" in name for name in names)


def test_the_written_processor_normalises_as_the_trainer_does(tmp_path: Path) -> None:
    from transformers import AutoVideoProcessor

    assert (list(IMAGENET_MEAN), list(IMAGENET_STD)) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    config = VideoMAEConfig.preset("tiny")
    save_hf(tmp_path, PretrainModel(config))
    clip, _ = clip_and_mask(config, 0.5)
    processed = AutoVideoProcessor.from_pretrained(tmp_path)(list(clip[0].numpy()), return_tensors="pt").pixel_values
    torch.testing.assert_close(processed, theirs(clip[:1]), atol=1e-6, rtol=0)


def test_head_eps_of_the_release_drifts_a_little_and_is_refused_unless_accepted(tmp_path: Path) -> None:
    """The release has eps 1e-6 before the head, transformers 1e-5 and no way to say otherwise."""
    torch.manual_seed(0)
    config = VideoMAEConfig.preset("tiny", head_eps=1e-6)
    model = PretrainModel(config).eval()
    with pytest.raises(ValueError, match="head_eps=1e-06.*accept_drift=True"):
        save_hf(tmp_path, model)
    save_hf(tmp_path, model, accept_drift=True)
    reference = pretrained(VideoMAEForPreTraining, tmp_path)
    clip, mask = clip_and_mask(config, 0.75)
    with torch.no_grad():
        drift = (model(clip, mask).prediction_BMK - reference(theirs(clip), mask).logits).abs().max()
    assert drift < 1e-3


def test_the_giants_odd_mlp_ratio_survives() -> None:
    giant = VideoMAEConfig.preset("giant")
    assert (giant.mlp_dim, giant.decoder_mlp_dim) == (6144, 2234)
    small = VideoMAEConfig.preset("giant", depth=1, decoder_depth=1, dim=176, decoder_dim=64)
    _, config, _ = to_hf_pretraining(PretrainModel(small))
    assert config["intermediate_size"] == small.mlp_dim == 768
    assert config_from_hf(config).decoder_mlp_dim == small.decoder_mlp_dim == 279


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"qv_bias": False}, "qv_bias=False"),
        ({"image_size": [224, 320]}, "expected a square"),
    ],
)
def test_configurations_that_are_not_ours_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_hf(change)


def test_a_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="safe_serialization=True"):
        load_hf(tmp_path)
    save_hf(tmp_path, PretrainModel(VideoMAEConfig.preset("tiny", depth=1, decoder_depth=1)))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["ViTModel"]}))
    with pytest.raises(ValueError, match="'ViTModel', expected one of VideoMAEForPreTraining"):
        load_hf(tmp_path)
    with pytest.raises(ValueError, match="2 class names for a head of 3"):
        to_hf_classifier(Classifier(VideoMAEConfig.preset("tiny"), 3), labels=["a", "b"])
    with pytest.raises(ValueError, match="mean pooling"):
        from_hf_classifier({}, {"use_mean_pooling": False})
