"""batch_size = 0: a usual number on CPUs; on a GPU the size that pays, found once and kept. No GPU is here: a stand-in
says what batches take and need, and everything else is the real thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import caption_sets
from pipeline.caption import run_caption
from pipeline.guide import run_guide
from pipeline.guides import recipes
from pipeline.index import run_index
from pipeline.runtime import batch_size, precision
from pipeline.runtime.batch_size import GAIN, MEMORY, Meter, Trial, found_size, largest_that_pays, meter_of
from pipeline.runtime.engine import once
from pipeline.runtime.ray_session import shared_ray
from pipeline.shard import run_shard
from pipeline.stage_specs import caption_spec, guide_spec
from pipeline.world.write import write_world
from schemas.config import Experiment, Ray
from schemas.errors import UserError
from schemas.stage import read_record
from tgmae.shipped_files import WORLD_MODELS

times = st.floats(1e-6, 10)


@given(first=st.integers(1, 9), most=st.integers(1, 5000), seconds=st.lists(times, min_size=14, max_size=14),
       needed=st.lists(st.floats(0, 1.2), min_size=14, max_size=14), out=st.integers(0, 14))  # fmt: skip
def test_the_size_is_first_doubled_fits_and_is_the_same_for_the_same_measurements(
    first: int, most: int, seconds: list[float], needed: list[float], out: int
) -> None:
    tried: list[int] = []

    def trial(size: int) -> Trial:
        place = (size // first).bit_length() - 1
        tried.append(size)
        if place >= out:
            raise MemoryError
        return Trial(seconds[place], needed[place])

    found = largest_that_pays(trial, first, most)
    assert tried == [first * 2**n for n in range(len(tried))] and all(size <= max(first, most) for size in tried)
    assert found in [first, *tried]
    place = (found // first).bit_length() - 1
    assert found == first or (needed[place] <= MEMORY and place < out and found <= most)
    assert found == first or seconds[place] * GAIN <= min(seconds[:place])
    assert largest_that_pays(trial, first, most) == found


@given(fixed=st.floats(1e-4, 1.0), each=st.floats(1e-4, 1.0), memory=st.floats(1e-5, 1.0))
def test_what_costs_a_fixed_time_and_one_an_input_is_doubled_until_that_pays_no_more(
    fixed: float, each: float, memory: float
) -> None:
    def trial(size: int) -> Trial:
        return Trial(fixed / size + each, memory * size)

    found = largest_that_pays(trial, 1, 4096)
    larger = [size for size in (2 * found, 4 * found) if size <= 4096 and memory * size <= MEMORY]
    assert all(trial(size).seconds * GAIN > trial(found).seconds for size in larger)


def test_a_model_that_halves_its_batch_does_not_fit() -> None:
    class Halves:
        batch_size = 0

    model = Halves()

    def run(size: int) -> int:
        model.batch_size = min(size, 10)
        return size

    def meter(run: Callable[[], int]) -> Trial:
        return Trial(1 / run(), 0.1)

    assert found_size(model, run, 32, meter) == 8


def test_nothing_is_measured_on_a_cpu() -> None:
    assert meter_of("cpu", 1.0) is None


class StandIn:
    """Runs what a GPU's meter would and says that inputs of batches of up to `fits` take less time, and need memory."""

    def __init__(self, fits: int) -> None:
        self.fits, self.models = fits, 0

    def of(self, device: str, share: float) -> Meter:
        assert share == 1.0
        self.models, size = self.models + 1, 0

        def meter(run: Callable[[], int]) -> Trial:
            nonlocal size
            assert run() > 0
            size += 1
            return Trial(1 / 2**size, 0.5 if size <= self.fits else 0.9)

        return meter


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], StandIn]:
    def give(fits: int) -> StandIn:
        meter = StandIn(fits)
        monkeypatch.setattr(precision, "capabilities", lambda: [7])  # too old for bfloat16, which would be slow here
        for module in (caption_sets, recipes):
            monkeypatch.setattr(module, "meter_of", meter.of)
            monkeypatch.setattr(module, "WORTH", 1)
        return meter

    return give


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("prepared")
    write_world(folder / "data", videos=3, size=64, test_share=0.34, workers=1)
    options = {"index": {"data": str(folder / "data")}, "workspace": str(folder / "work"), "ray": {"address": "none"},
               "captions": "blip2", "caption": {"blip2": {"model": str(WORLD_MODELS / "blip2"), "max_new_tokens": 4}},
               "text": {"model": f"local-dir:{WORLD_MODELS / 'clip'}", "patch": 32, "frame_stride": 16}}  # fmt: skip
    experiment = Experiment.model_validate(options)
    run_index(experiment)
    run_shard(experiment)
    return experiment


def caption_options(experiment: Experiment, **changes: Any) -> Experiment:
    blip2 = experiment.caption.blip2.model_copy(update=changes)
    return experiment.model_copy(update={"caption": experiment.caption.model_copy(update={"blip2": blip2})})


@pytest.mark.medium
def test_stages_find_a_size_once_and_keep_it(
    prepared: Experiment, stand_in: Callable[[int], StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded like one that was asked for: in a caption set's fingerprint, beside a guide's; also for a machine
    without a GPU."""
    meter = stand_in(3)
    for run, spec, first in ((run_caption, caption_spec, 2), (run_guide, guide_spec, 64)):
        assert spec(prepared).chosen["batch_size"] == "auto"
        record, size = run(prepared), first * 4
        assert record.config.get("batch_size", record.info.get("batch_size")) == size
        assert spec(prepared).chosen["batch_size"] == size and spec(prepared).fingerprint == record.fingerprint
    assert meter.models == 2
    asked = caption_options(prepared, batch_size=8, max_new_tokens=4)
    assert caption_spec(asked).fingerprint == caption_spec(prepared).fingerprint
    monkeypatch.setattr(precision, "capabilities", list)
    assert caption_spec(prepared).chosen["batch_size"] == 8 and guide_spec(prepared).chosen["batch_size"] == 256
    assert run_caption(prepared).seconds == read_record(caption_spec(prepared).folder).seconds  # type: ignore[union-attr]
    assert meter.models == 2


@pytest.mark.medium
def test_what_is_begun_goes_on_with_its_size(
    prepared: Experiment, stand_in: Callable[[int], StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the search, resumed where a search would find another."""
    stand_in(2)
    begun = prepared.model_copy(update={"captions": "blip2.begun"})
    run_caption(prepared)
    guided = prepared.model_copy(update={"text": prepared.text.model_copy(update={"patch": 16})})
    for run, stage in ((run_caption, begun), (run_guide, guided)):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("pipeline.runtime.stage_build._made", interrupted)
            run(stage)
    stand_in(4)
    assert run_caption(begun).config["batch_size"] == 4
    assert run_guide(guided).info["batch_size"] == 128


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.medium
def test_a_small_stage_is_not_worth_a_search(
    prepared: Experiment, stand_in: Callable[[int], StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = stand_in(3)
    monkeypatch.setattr(caption_sets, "WORTH", batch_size.WORTH)
    record = run_caption(prepared.model_copy(update={"captions": "blip2.small"}))
    assert record.config["batch_size"] == 32 and meter.models == 0


def shared(share: float) -> int:
    return round(100 * share)


def refused(share: float) -> int:
    raise UserError("no such weights")


@pytest.mark.slow
def test_a_search_is_a_worker_of_its_own() -> None:
    assert once(shared, Ray(address="none")) == 100
    with shared_ray():
        assert once(shared, Ray()) == 100
        with pytest.raises(UserError, match="no such weights"):
            once(refused, Ray())
