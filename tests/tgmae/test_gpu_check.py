"""The rehearsal of `make gpu-check` on a CPU: every part, tiny, and what becomes of one that fails or is late."""

from __future__ import annotations

import argparse
import importlib
import json
import runpy
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from bench import gpu_check, gpu_world
from bench.gpu.card import Asked

ROOT = Path(__file__).resolve().parents[2]


def options(results: Path, **given: Any) -> argparse.Namespace:
    chosen = {"results": results, "folder": results / "data", "device": "cpu", "tiny": True, "videomae": None,
              "seconds": 100.0, "data": None, "no_wheels": True, **given}  # fmt: skip
    return argparse.Namespace(**chosen)


@pytest.mark.slow
def test_every_part_measures_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = options(tmp_path)
    gpu_check.prepare(given)
    for name in gpu_check.PARTS:
        gpu_check.run_part(name, given)
    found = {name: json.loads((tmp_path / f"gpu_{name}.json").read_bytes()) for name in gpu_check.PARTS}
    assert {each["about"]["card"] for each in found.values()} == {"none: a rehearsal on the CPU"}
    assert set(found["step"]["time_of_ours"]) == {"ours, tube", "ours, text", "transformers"}
    assert set(found["mfu"]["steps"]) == {"ViT-T 0.6", "ViT-T 0.75", "ViT-T 0.9"}
    assert found["crops"]["batch 4"]["crops_per_second"] > 0 and found["crops"]["dense_frames_per_second"] > 0
    assert found["blip2"]["batches"]["2"]["captions_per_second"] > 0
    assert all(0 <= found["loader"][f"repeats {count}"]["waiting"] <= 1 for count in (1, 2, 4))
    page = runpy.run_path(str(ROOT / "docs" / "make_benchmarks.py"))["page"](tmp_path)
    section = page.partition("## On one GPU")[2].partition("\n## ")[0]
    assert "Card: none: a rehearsal on the CPU" in section and "captions/s" in section and "crops/s" in section
    assert found["suite"]["passed"] and set(found["suite"]["tests"].values()) == {"passed"}, found["suite"]


@pytest.mark.parametrize(
    ("program", "limit", "state"),
    [("pass", 100.0, "done"), ("raise SystemExit(3)", 100.0, "failed"), ("import time; time.sleep(60)", 21.0, "late"),
     ("pass", 5.0, "skipped")],
)  # fmt: skip
def test_a_part_ends_by_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, limit: float, state: str
) -> None:
    monkeypatch.setattr(gpu_check, "command", lambda *_: [sys.executable, "-c", program])
    monkeypatch.setattr(gpu_check, "ENOUGH", 0.5 if state == "late" else gpu_check.ENOUGH)
    found = gpu_check.ended("crops", options(tmp_path), 1.0 if state == "late" else limit)
    assert found["state"] == state, found


def test_what_has_no_packages_or_data_is_skipped_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "command", lambda *_: [sys.executable, "-c", "pass"])
    there = gpu_check.find_spec
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None if name == "transformers" else there(name))
    monkeypatch.chdir(tmp_path)  # no work/gpu_world here
    assert gpu_check.check(options(tmp_path, parts=["blip2", "loader", "mfu", "world"])) == 0
    parts = json.loads((tmp_path / "gpu_check.json").read_bytes())["parts"]
    assert {name: part["state"] for name, part in parts.items()} == {
        "blip2": "skipped", "loader": "skipped", "mfu": "done", "world": "skipped",
    }  # fmt: skip
    assert parts["blip2"]["reason"] == "missing: transformers"
    assert "make gpu-check-data" in parts["loader"]["reason"] and "make gpu-world-data" in parts["world"]["reason"]


def test_what_was_measured_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = importlib.import_module("bench.gpu.mfu")
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(part, "utilisation", lambda *_: {"mfu": 0.5} if len(kept) < 2 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        part.measure(Asked("cpu", True, 10), lambda found: kept.append(dict(found["steps"])))
    assert [len(each) for each in kept] == [1, 2]


def test_the_limits_of_the_parts_fit_into_eight_minutes() -> None:
    """What they do not need is world's."""
    assert sum(importlib.import_module(f"bench.gpu.{name}").SECONDS for name in gpu_check.PARTS) <= 480


@pytest.mark.parametrize("wheels", [gpu_check.WHEELS, gpu_world.WHEELS])
def test_the_wheels_require_nothing_that_is_not_carried_or_there(wheels: tuple[str, ...]) -> None:
    """They are installed without what they require, on a machine that may have none of it, or another version."""
    there = {"python_version": gpu_world.GPU_PYTHON[0], "extra": ""}
    for name in wheels:
        needed = [
            each for each in map(Requirement, requires(name) or []) if not each.marker or each.marker.evaluate(there)
        ]
        assert {each.name.lower() for each in needed} <= {*wheels, *gpu_world.THERE}, name
    pins = {Requirement(each).name.lower() for each in gpu_world.pinned(wheels)}
    assert pins == set(wheels)
