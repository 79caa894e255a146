"""How many threads decode: those asked for, or one a core of the worker's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.runtime import cores
from schemas import usable_cores


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cores, "_share", 0.0)
    monkeypatch.setattr(usable_cores, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(usable_cores.os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("limit", "threads"), [("max 100000", 12), ("450000 100000", 4), ("50000 100000", 1), ("", 12)]
)
def test_a_worker_alone_has_the_machine_within_its_container_s_limit(machine: Path, limit: str, threads: int) -> None:
    machine.write_text(limit)
    assert cores.decoding_threads(0) == threads


def test_workers_share_the_machine() -> None:
    cores.share_cores(3.5)
    assert cores.decoding_threads(0) == 3
    cores.share_cores(64.0)  # of a cluster whose other machines are larger
    assert cores.decoding_threads(0) == 12
    assert cores.decoding_threads(5) == 5


def test_a_large_machine_is_not_filled_with_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usable_cores.os, "sched_getaffinity", lambda _: set(range(128)), raising=False)
    assert cores.decoding_threads(0) == 16
