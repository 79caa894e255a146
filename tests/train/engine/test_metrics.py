"""What a person watches is written where it is looked for."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from schemas.errors import UserError
from train.engine.metrics import Metrics, read


def watch(run: Path, *, start: int = 0, wandb: str = "") -> None:
    metrics = Metrics(run, title="pretrain", start=start, total=4, every=2, clips_per_step=8, wandb=wandb)
    for step in range(start + 1, 5):
        metrics.update(step, epoch=0, lr=0.1 * step, values={"loss": float(step)}, waited=0.25, computed=step,
                       now=10.0**9 + step)  # fmt: skip
    metrics.close()


def test_lines_and_tensorboard_say_the_same(tmp_path: Path) -> None:
    watch(tmp_path)
    lines = read(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"], line["lr"]) for line in lines] == [(2, 1.5, 0.2), (4, 3.5, 0.4)]
    wanted = {"clips_per_second", "data_wait", "memory_gb", "eta_seconds", "epoch"}
    assert all(wanted <= line.keys() for line in lines)
    assert [(line["wait_ms"], line["compute_ms"]) for line in lines] == [(250, 1.5), (250, 3.5)]  # means of updates
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(2, 1.5), (4, 3.5)]


@pytest.mark.medium
def test_weights_and_biases_gets_the_lines_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged: list[dict[str, Any]] = []
    log = wandb.Run.log
    monkeypatch.setattr(wandb.Run, "log", lambda run, line, step: (logged.append(line), log(run, line, step=step)))
    watch(tmp_path, wandb="project")
    assert logged == read(tmp_path / "metrics.jsonl")
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_weights_and_biases_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        watch(tmp_path, wandb="project")
    assert json.dumps(read(tmp_path / "metrics.jsonl") if (tmp_path / "metrics.jsonl").is_file() else []) == "[]"
