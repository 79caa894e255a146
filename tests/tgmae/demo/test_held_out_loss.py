"""Reconstruction of held-out videos, and what predicting zero costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from schemas.config import Experiment
from schemas.errors import UserError
from tests.train.conftest import SMALL, write_workspace
from tgmae.demo.held_out_loss import held_out_reconstruction
from train.models.weight_files import MODEL
from train.models.weights import load_weights
from train.pretrain import run_pretrain


def test_a_decoder_that_predicts_zero_costs_what_predicting_zero_costs(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    workspace = write_workspace(tmp_path / "work", videos=12, splits=True)
    experiment = Experiment.model_validate({"workspace": str(workspace.root), **SMALL, "name": "run"})
    run_pretrain(experiment)
    trained = held_out_reconstruction(experiment)
    assert trained == held_out_reconstruction(experiment)  # nothing is drawn again
    assert 0 < trained["reconstruction"] != trained["reconstruction_zero"] > 0
    weights = load_weights(workspace.run("run") / MODEL)
    silent = {name: torch.zeros_like(value) if "decoder.head" in name else value for name, value in weights.items()}
    assert 0 <= trained["reconstruction_below_zero"] <= 1
    assert any("decoder.head" in name for name in silent)
    save_file(silent, workspace.run("run") / MODEL)
    zero = held_out_reconstruction(experiment)
    assert zero["reconstruction"] == zero["reconstruction_zero"] == trained["reconstruction_zero"]
    assert zero["reconstruction_below_zero"] == 0


def test_without_a_test_split_there_is_nothing_held_out(tmp_path: Path) -> None:
    workspace = write_workspace(tmp_path / "work", videos=4)
    experiment = Experiment.model_validate({"workspace": str(workspace.root), **SMALL})
    with pytest.raises(UserError, match="no video of the split 'test'"):
        held_out_reconstruction(experiment)
