"""FSDP2 trains what DDP trains, and each goes on from the other's checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.workspace import Workspace
from tests.train.forking import forked_ranks
from train.engine.metrics import read
from train.engine.sharding import load_whole, sharded_like, whole, whole_state
from train.pretrain import run_pretrain

pytestmark = pytest.mark.slow
Small = Callable[..., Experiment]
BOTH = {"contrastive": 1.0, "learn_temperature": True}


def folder(experiment: Experiment) -> Path:
    return Workspace(Path(experiment.workspace)).run(experiment.name)


def weights(experiment: Experiment) -> dict[str, torch.Tensor]:
    return {**load_file(folder(experiment) / "model.safetensors"), **load_file(folder(experiment) / "head.safetensors")}


def assert_alike(one: Experiment, other: Experiment) -> None:
    """AdamW makes whole steps of gradients that are nothing but rounding, so a few weights may differ."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    a, b = (torch.cat([state[name].flatten().double() for name in sorted(state)]) for state in (ours, theirs))
    assert ((a - b).abs() > 1e-5).double().mean() < 0.01


def test_sharded_and_replicated_runs_agree(small: Small) -> None:
    """Two processes; accumulation, clipping, both losses: the same loss curve and weights to rounding."""
    common = {"objective": BOTH, "optim": {"accumulate": 2, "clip_grad": 0.5}}
    replicated = small(name="ddp", pretrain={"processes": 2}, **common)
    sharded = small(name="fsdp", pretrain={"processes": 2, "fsdp": True}, **common)
    with forked_ranks():
        run_pretrain(replicated)
        run_pretrain(sharded)
    curves = [[line["loss"] for line in read(folder(run) / "metrics.jsonl")] for run in (sharded, replicated)]
    assert curves[0][:3] == pytest.approx(curves[1][:3], rel=1e-5)
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    assert_alike(sharded, replicated)


def test_a_sharded_run_goes_on_in_one_process(small: Small) -> None:
    """Checkpoints hold whole tensors: what two processes began with FSDP, one finishes without."""
    undisturbed = small(name="whole", objective=BOTH)
    run_pretrain(undisturbed)
    begun = small(name="begun", pretrain={"processes": 2, "fsdp": True}, objective=BOTH)
    with forked_ranks():
        run_pretrain(begun)
    last, record = folder(begun) / "checkpoints", folder(begun) / "stage.json"
    newest = max(last.iterdir())
    for path in (newest / "state.json", record):  # as though it had been killed before its last checkpoint
        path.unlink()
    run_pretrain(small(name="begun", objective=BOTH))
    assert json.loads(record.read_bytes())["stage"] == "pretrain"
    assert_alike(begun, undisturbed)


def test_one_process_has_nothing_to_shard(small: Small) -> None:
    with pytest.raises(UserError, match="set pretrain.processes to 2 or more"):
        run_pretrain(small(pretrain={"fsdp": True}))


def test_whole_tensors_pass_through() -> None:
    module, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    tensor = torch.ones(2)
    assert whole(tensor) is tensor and sharded_like(tensor, tensor) is tensor
    load_whole(other, whole_state(module))
    assert other.weight.equal(module.weight)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_whole(other, {**whole_state(module), "third": tensor})
