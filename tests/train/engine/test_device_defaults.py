"""What "auto" means where, and that a run stays the run it was begun as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from schemas import usable_cores
from schemas.config import Experiment
from schemas.stage import read_record
from train.engine import device_defaults
from train.engine.computing_time import ComputingTime
from train.engine.device_defaults import compiles, loader_workers, native_precision
from train.engine.metrics import read
from train.pretrain import run_pretrain
from train.specs import pretrain_spec
from train.trainer import Trainer


def experiment(**pretrain: Any) -> Experiment:
    return Experiment.model_validate({"workspace": "w", "pretrain": pretrain})


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_half_precision_is_bfloat16_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    asked: list[dict[str, bool]] = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: (asked.append(options), native)[1])
    assert native_precision("cuda") == expected and asked == [{"including_emulation": False}]
    assert native_precision("cpu") == "float32"


def test_workers_take_the_cores_that_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_defaults, "usable_cores", lambda: 32)
    assert loader_workers(experiment(), "cpu") == 4
    assert loader_workers(experiment(), "cuda") == 31
    assert loader_workers(experiment(processes=8), "cuda") == 3
    assert loader_workers(experiment(workers=2), "cuda") == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")  # of torchrun, on a machine of several
    assert loader_workers(experiment(), "cuda") == 1
    monkeypatch.setattr(device_defaults, "usable_cores", lambda: 1)
    assert loader_workers(experiment(), "cuda") == 1


@pytest.mark.parametrize(
    ("limit", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 6), ("250000 100000", 2), ("", 6)]
)
def test_cores_are_those_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    monkeypatch.setattr(usable_cores.os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(usable_cores, "QUOTA", tmp_path / "cpu.max")
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores.usable_cores() == cores


def test_long_runs_on_gpus_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = True
    monkeypatch.setattr(device_defaults, "c_compiler", lambda: compiler)
    assert [compiles(experiment(), kind, updates) for kind in ("cpu", "cuda") for updates in (100, 10_000)] == [
        False, False, False, True,
    ]  # fmt: skip
    assert compiles(experiment(compile=True), "cpu", 1) and not compiles(experiment(compile=False), "cuda", 10_000)
    assert compiles(experiment(compile="reduce-overhead"), "cuda", 1)
    assert not compiles(experiment(fsdp=True, processes=2), "cuda", 10_000)  # its hooks would cut the graph
    compiler = False
    assert not compiles(experiment(), "cuda", 10_000) and compiles(experiment(compile=True), "cuda", 1)


def test_a_run_keeps_the_precision_it_was_begun_with(small: Any) -> None:
    """Elsewhere, too: a run on a CPU is current, and is resumed, where a GPU would have begun it in half precision."""
    wanted = small(pretrain={"precision": "auto"}, optim={"epochs": 1, "warmup_epochs": 0})
    assert pretrain_spec(wanted).config["pretrain"]["precision"] == "bfloat16"  # none was begun
    record = run_pretrain(wanted)
    assert record.config["pretrain"]["precision"] == "float32" and record.info["device"].startswith("cpu, float32, ")
    for native in ("bfloat16", "float32"):
        spec = pretrain_spec(wanted, native)
        assert spec.fingerprint == record.fingerprint
        assert (now := read_record(spec.folder)) is not None and not spec.differences(now)
    kept = (pretrain_spec(wanted).folder / "config.toml").read_text()
    assert 'precision = "float32"' in kept and "workers = 0" in kept
    asked_for = small(pretrain={"precision": "bfloat16"}, optim={"epochs": 1, "warmup_epochs": 0})
    assert pretrain_spec(asked_for).differences(record) == ['pretrain.precision: "float32" -> "bfloat16"']
    other = small(pretrain={"precision": "auto"}, optim={"epochs": 2, "warmup_epochs": 0})
    assert pretrain_spec(other, "bfloat16").config["pretrain"]["precision"] == "bfloat16"  # another run


def test_computing_and_waiting_are_told_apart(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they are the time of an update; neither is missing from a line."""
    wanted = small(optim={"epochs": 1, "warmup_epochs": 0})
    slow = Trainer.batches

    def batches(trainer: Trainer, plan: Any) -> Any:
        import time

        for batch in slow(trainer, plan):
            time.sleep(0.05)
            yield batch

    monkeypatch.setattr(Trainer, "batches", batches)
    run_pretrain(wanted)
    lines = read(pretrain_spec(wanted).folder / "metrics.jsonl")
    assert all(line["wait_ms"] >= 50 and line["compute_ms"] > 0 for line in lines)


def test_spans_are_summed() -> None:
    computing = ComputingTime(torch.device("cpu"))
    with computing.counted():
        torch.zeros(10).sum()
    first = computing.milliseconds()
    with computing.counted():
        torch.zeros(10).sum()
    assert 0 < first < computing.milliseconds()
