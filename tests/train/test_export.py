"""What `tgmae export` writes, loaded by plain transformers: equal outputs and losses."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoVideoProcessor, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from typer.testing import CliRunner

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.toml import dump
from tgmae.cli import app
from train.export import export_hf
from train.models.cubes import normalise
from train.models.objective import Objective, build_model
from train.models.sizes import model_config
from train.models.videomae import Classifier, PretrainModel
from train.models.weights import read_weights
from train.pretrain import MODEL, save_module

torch.set_num_threads(1)

TOLERANCE = 1e-5  # float32


@st.composite
def experiments(draw: st.DrawFn) -> Experiment:
    """Small ones of every kind that can be exported, the image mode among them."""
    tubelet, patch = draw(st.integers(1, 2)), draw(st.sampled_from((4, 8)))
    return Experiment.model_validate({
        "workspace": ".",
        "clip": {"frames": tubelet * draw(st.integers(1, 3)), "size": patch * draw(st.integers(2, 4))},
        "mask": {"kind": "random"},
        "model": {"size": "tiny", "patch": patch, "tubelet": tubelet, "decoder_depth": draw(st.integers(1, 3))},
        "objective": {"norm_pixels": draw(st.booleans())},
        "pretrain": {"seed": draw(st.integers(0, 99))},
    })  # fmt: skip


def write_run(folder: Path, experiment: Experiment, model: nn.Module, **metadata: str) -> Path:
    """The folder of a run that has ended with weights at random, biases too."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(dump(experiment))
    save_module(folder / MODEL, model.eval(), metadata)
    return folder


def load(kind: Any, folder: Path) -> Any:
    """The class's own from_pretrained, failing on missing, unexpected or mismatched weights."""
    reference, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return reference.eval()


def clip_of(experiment: Experiment) -> Tensor:
    size, frames = experiment.clip.size, experiment.clip.frames
    return torch.randint(0, 256, (2, frames, size, size, 3), dtype=torch.uint8)


def theirs(clip_BTHWC: Tensor) -> Tensor:
    return normalise(clip_BTHWC).permute(0, 1, 4, 2, 3)


@pytest.mark.medium
@given(experiments(), st.floats(0.1, 0.9))
@settings(max_examples=15)
def test_a_pretraining_run_gives_the_same_pixels_and_loss(experiment: Experiment, ratio: float) -> None:
    objective = Objective(experiment, None)
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder) / "run", experiment, objective.model)
        assert export_hf(run, Path(folder) / "out") == "VideoMAEForPreTraining"
        reference = load(VideoMAEForPreTraining, Path(folder) / "out")
        back = read_weights(Path(folder) / "out")
    config, clip = objective.model.config, clip_of(experiment)
    hidden = min(max(round(ratio * config.tokens), 1), config.tokens - 1)
    order = torch.rand(2, config.tokens).argsort(1)
    visible_index, hidden_index = order[:, hidden:].sort(1).values, order[:, :hidden].sort(1).values
    mask = torch.zeros(2, config.tokens, dtype=torch.bool).scatter(1, hidden_index, True)
    with torch.no_grad():
        expected = reference(theirs(clip), mask)
        parts = objective(clip, visible_index, hidden_index, None, torch.zeros(2, dtype=torch.int64))
        assert isinstance(objective.model, PretrainModel)
        prediction = objective.model(clip, mask).prediction_BMK
    torch.testing.assert_close(prediction, expected.logits, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(parts["loss"], expected.loss, atol=TOLERANCE, rtol=TOLERANCE)
    assert back.config == config
    assert all(torch.equal(tensor, back.state[name]) for name, tensor in objective.model.state_dict().items())


@given(experiments())
@settings(max_examples=5)
def test_a_fine_tuned_run_gives_the_same_scores_under_its_classes_names(experiment: Experiment) -> None:
    model = Classifier(model_config(experiment), 3)
    names = ["push", "pull", "spin"]
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder) / "run", experiment, model, classes=json.dumps(names))
        assert export_hf(run, Path(folder) / "out") == "VideoMAEForVideoClassification"
        reference = load(VideoMAEForVideoClassification, Path(folder) / "out")
    clip = clip_of(experiment)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), reference(theirs(clip)).logits, atol=TOLERANCE, rtol=TOLERANCE)
    assert reference.config.id2label == dict(enumerate(names))


SMALL = {"workspace": ".", "clip": {"frames": 4, "size": 32}, "mask": {"kind": "random"}}


def test_names_of_actions_are_not_those_of_verbs_and_nouns(tmp_path: Path) -> None:
    """EPIC's head scores verbs and nouns; its classes are pairs of them."""
    experiment = Experiment.model_validate({**SMALL, "model": {"size": "tiny", "patch": 8}})
    run = write_run(tmp_path / "run", experiment, Classifier(model_config(experiment), 4), classes='["a", "b", "c"]')
    export_hf(run, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]["3"] == "LABEL_3"


def test_an_arvideo_run_gives_its_encoder_by_the_command_line(tmp_path: Path) -> None:
    experiment = Experiment.model_validate({
        **SMALL, "model": {"size": "tiny", "patch": 8}, "objective": {"kind": "arvideo"},
        "arvideo": {"cluster": [1, 2, 2]},
    })  # fmt: skip
    model = build_model(experiment)
    run = write_run(tmp_path / "run", experiment, model)
    result = CliRunner().invoke(app, ["export", str(run), "--to-hf", str(tmp_path / "out")])
    assert result.exit_code == 0 and result.output.startswith("VideoMAEModel: ")
    reference, clip = load(VideoMAEModel, tmp_path / "out"), clip_of(experiment)
    with torch.no_grad():
        features = reference(theirs(clip)).last_hidden_state
        torch.testing.assert_close(model.encoder(clip), features, atol=TOLERANCE, rtol=TOLERANCE)
    processed = AutoVideoProcessor.from_pretrained(tmp_path / "out")(list(clip[0].numpy()), return_tensors="pt")
    torch.testing.assert_close(processed.pixel_values, theirs(clip[:1]), atol=1e-6, rtol=0)


def test_what_transformers_has_not_and_what_is_no_run_are_refused(tmp_path: Path) -> None:
    experiment = Experiment.model_validate({**SMALL, "model": {"size": "tiny", "patch": 8, "attention": "divided"}})
    run = write_run(tmp_path / "run", experiment, build_model(experiment))
    with pytest.raises(UserError, match="divided attention, which transformers' VideoMAE has not"):
        export_hf(run, tmp_path / "out")
    with pytest.raises(UserError, match="is not the folder of a run"):
        export_hf(tmp_path / "out", tmp_path / "other")
    (run / MODEL).unlink()
    with pytest.raises(UserError, match="no weights at"):
        export_hf(run, tmp_path / "out")


def test_the_option_to_start_from_transformers_is_model_init(tmp_path: Path, shared_workspace: Path) -> None:
    command = ["pretrain", str(shared_workspace), "--set", "guide=none", "--set", "mask.kind=tube"]
    result = CliRunner().invoke(app, [*command, "--init-from-hf", str(tmp_path / "nowhere")])
    assert result.exit_code == 2 and f"no weights at {tmp_path / 'nowhere'}" in result.output
