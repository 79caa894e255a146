"""What a plan says of trainings: what suits the device, and a dry run by many processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.config import Experiment
from schemas.errors import UserError
from tgmae import training_plan
from tgmae.run import Step
from tgmae.training_plan import clips_of_a_process, device_lines, loaded_clips, rank_lines
from train.engine.cost import KEPT, flops, hidden_tokens, memory, parameters
from train.models.sizes import model_config
from train.models.videomae import PretrainModel

ROOT = Path(__file__).resolve().parents[2]


def experiment(tmp_path: Path, **sections: Any) -> Experiment:
    return Experiment.model_validate({"workspace": str(tmp_path), **sections})


def test_a_batch_that_cannot_be_split_names_those_that_can(tmp_path: Path) -> None:
    given = experiment(tmp_path, clip={"repeats": 4}, optim={"batch_size": 2048})
    assert clips_of_a_process(given, 64) == 32
    with pytest.raises(UserError, match=r"1 x 60 x 4: set optim.batch_size to 1920 or 2160"):
        clips_of_a_process(given, 60)
    with pytest.raises(UserError, match=r"1 x 1024 x 4: set optim.batch_size to 4096,"):
        clips_of_a_process(given, 1024)


@pytest.mark.medium
def test_ranks_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_plan, "videos", lambda _: 240_436)
    given = experiment(tmp_path)
    batch, memory_line, hours = rank_lines(given, 64)
    assert batch == "batch     2048 clips = 64 processes x 1 micro-batches x 32 clips"
    assert "parameters, gradients and optimiser 1.5, activations of 32 clips in bfloat16" in memory_line
    alone, together = (float(rank_lines(given, ranks)[2].split()[2]) for ranks in (1, 64))
    assert alone / together == pytest.approx(64, rel=0.1), hours
    sharded = experiment(tmp_path, pretrain={"fsdp": True, "processes": 64})
    assert "(a share of 1/64)" in rank_lines(sharded, 64)[1]


def test_before_there_are_videos_there_are_no_hours(tmp_path: Path) -> None:
    assert rank_lines(experiment(tmp_path), 8)[2] == "hours     not known before the videos are indexed"


def test_fewer_videos_than_a_batch_are_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_plan, "videos", lambda _: 13)
    assert rank_lines(experiment(tmp_path), 8)[2] == "hours     none: 13 videos do not fill one batch"


def test_the_rate_of_the_loader_is_the_measured_one() -> None:
    found = json.loads((ROOT / "bench" / "results" / "stream.json").read_bytes())["clips_per_second_and_core"]
    for repeats, name in ((1, "tgmae, top-k"), (2, "tgmae, 2 repeats"), (4, "tgmae, 4 repeats")):
        assert loaded_clips(repeats) == pytest.approx(found[name], rel=0.1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("cpu", "the CPU, here: float32, not compiled, 4 loader workers"),
     ("cuda", "a GPU, here: bfloat16, not compiled, 7 loader workers")],
)  # fmt: skip
def test_what_suits_the_device_is_said_of_trainings_that_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: str
) -> None:
    monkeypatch.setattr(training_plan, "device_kind", lambda _: kind)
    monkeypatch.setattr(training_plan, "native_precision", {"cuda": "bfloat16", "cpu": "float32"}.__getitem__)
    monkeypatch.setattr("train.engine.device_defaults.usable_cores", lambda: 8)
    steps = [Step("shard", "build", ""), Step("pretrain", "pending", "", (), True), Step("finetune", "current", "")]
    assert device_lines(experiment(tmp_path), steps) == [f"device    pretrain on {expected}"]


@pytest.mark.parametrize("sections", [
    {"model": {"size": "small"}, "clip": {"frames": 8, "size": 112}},
    {"model": {"size": "tiny", "patch": 8}, "clip": {"frames": 8, "size": 64}, "mask": {"ratio": 0.9}},
])  # fmt: skip
def test_the_formula_of_memory_is_what_torch_keeps(tmp_path: Path, sections: dict[str, Any]) -> None:
    """What autograd saves for the backward pass, in float32, to a fifth: heads and losses are not in the formula."""
    given = experiment(tmp_path, **sections)
    config = model_config(given)
    hidden, model, clips = hidden_tokens(given, config), PretrainModel(config), 2
    clip = torch.zeros(clips, config.frames, config.image_size, config.image_size, 3)
    order = torch.arange(config.tokens).expand(clips, -1)
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = model.forward_split(clip, order[:, : config.tokens - hidden], order[:, config.tokens - hidden :])
    assert made is not None
    expected = memory(given, clips, precision="float32")
    assert sum(kept.values()) == pytest.approx(expected.activations, rel=0.2)
    assert expected.state == 16 * sum(each.numel() for each in model.parameters()) == 16 * parameters(given)
    assert memory(given, clips, precision="bfloat16").activations * 2 == expected.activations
    assert KEPT * flops(given).pretraining > 0


@pytest.mark.medium
def test_checkpointed_activations_take_a_fraction(tmp_path: Path) -> None:
    plain, saved = (
        memory(experiment(tmp_path, model={"size": "large", "checkpoint_activations": each}), 8, precision="bfloat16")
        for each in (False, True)
    )
    assert saved.state == plain.state and saved.activations < plain.activations / 4
