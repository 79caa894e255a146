"""precision = "auto": what suits the device, recorded; and what is there stays what it is on any other device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime import precision
from pipeline.runtime.precision import precision_for
from pipeline.stage_specs import caption_spec, guide_spec
from schemas.atomic import write_json
from schemas.config import Experiment
from schemas.stage import PARTS, SPEC, StageRecord, StageSpec, write_record
from tgmae.run import plan
from tgmae.shipped_files import WORLD_MODELS

Gpus = Callable[[list[int]], None]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """Gives this machine GPUs of these generations: there are none where this is tested."""

    def give(majors: list[int]) -> None:
        monkeypatch.setattr(precision, "capabilities", lambda: majors)

    return give


@pytest.mark.parametrize(
    ("majors", "device", "chosen"),
    [
        ([], "auto", "float32"), ([9, 9], "auto", "bfloat16"), ([9, 9], "cpu", "float32"), ([8], "cuda", "bfloat16"),
        ([7], "auto", "float32"), ([9, 7], "auto", "float32"), ([9, 7], "cuda:0", "bfloat16"),
        ([9, 7], "cuda:1", "float32"), ([9], "cuda:5", "float32"),
        ([9], "cuda:x", "float32"), ([9], "cuda:-1", "float32"),
    ],
)  # fmt: skip
def test_bfloat16_where_every_gpu_that_may_be_used_computes_it(
    gpus: Gpus, majors: list[int], device: str, chosen: str
) -> None:
    gpus(majors)
    assert precision_for("auto", device) == chosen
    assert precision_for("float16", device) == "float16"


def test_a_machine_without_a_driver_has_no_gpu() -> None:
    import torch

    precision.capabilities.cache_clear()
    expected = [torch.cuda.get_device_capability(n)[0] for n in range(torch.cuda.device_count())]
    assert precision.capabilities() == expected


def made(folder: Path, stage: str, output: str, **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"fingerprint": "0", "config": {}, "inputs": {}, "counts": {"done": 1}, **more}
    write_record(folder, StageRecord(stage=stage, output=output, failed={}, tools={}, seconds=0.0, **record))


def experiment(workspace: Path, **changes: Any) -> Experiment:
    """With all that captions and a guide are made from."""
    made(workspace / "manifest", "index", "m")
    made(workspace / "clips", "shard", "c", inputs={"manifest": "m"})
    made(workspace / "captions" / "oracle", "caption", "o", inputs={"manifest": "m"})
    options = {
        "workspace": str(workspace),
        "text": {"model": f"local-dir:{WORLD_MODELS / 'clip'}"},
        "captions": "oracle",
    }
    return Experiment.model_validate(options | changes)


def both(workspace: Path) -> list[StageSpec]:
    captions = experiment(workspace, captions="blip2", caption={"blip2": {"model": str(WORLD_MODELS / "blip2")}})
    return [caption_spec(captions), guide_spec(experiment(workspace))]


def test_what_is_chosen_is_in_the_fingerprint_as_if_it_had_been_asked_for(tmp_path: Path, gpus: Gpus) -> None:
    gpus([])
    on_cpu = both(tmp_path)
    asked = experiment(tmp_path, text={"model": f"local-dir:{WORLD_MODELS / 'clip'}", "precision": "float32"})
    assert on_cpu[1].config["precision"] == "float32" and on_cpu[1].fingerprint == guide_spec(asked).fingerprint
    assert on_cpu[0].config["dtype"] == "float32"
    gpus([9])
    on_gpu = both(tmp_path)
    assert [spec.chosen["dtype" if n == 0 else "precision"] for n, spec in enumerate(on_gpu)] == ["bfloat16"] * 2
    assert {spec.fingerprint for spec in on_gpu}.isdisjoint(spec.fingerprint for spec in on_cpu)
    assert "precision" not in guide_spec(asked).chosen


@pytest.mark.parametrize("there", ["finished", "begun", "rebuilt"])
def test_what_is_there_is_gone_on_with_on_another_device(tmp_path: Path, gpus: Gpus, there: str) -> None:
    """Finished on a GPU, begun there, or being rebuilt there: never two precisions in one stage."""
    gpus([9])
    for spec in both(tmp_path):
        known = {"fingerprint": spec.fingerprint, "config": spec.config, "inputs": spec.inputs}
        if there == "finished":
            made(spec.folder, spec.stage, "x", **known)
            continue
        folder = spec.folder
        if there == "rebuilt":
            made(folder, spec.stage, "x")
            folder = folder.with_name(f".{folder.name}.building")
        write_json(folder / PARTS / SPEC, {"schema_version": 1, **known})
    gpus([])
    assert [both(tmp_path)[n].chosen[key] for n, key in enumerate(("dtype", "precision"))] == ["bfloat16"] * 2


def test_the_plan_prints_what_was_chosen(tmp_path: Path, gpus: Gpus) -> None:
    (tmp_path / "data").mkdir()
    for majors, name, size in (([], "float32", "32"), ([9], "bfloat16", "found when it is begun")):
        gpus(majors)
        asked = experiment(tmp_path, index={"data": str(tmp_path / "data")}, stages=[], captions="blip2",
                           caption={"blip2": {"model": str(WORLD_MODELS / "blip2")}})  # fmt: skip
        (captions,) = [step for step in plan(asked) if step.stage == "caption"]
        assert f"(dtype auto: {name}, batch_size auto: {size})" in captions.line("would be")
