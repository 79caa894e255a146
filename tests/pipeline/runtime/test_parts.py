"""Shards handed out in parts: every row once, all workers busy, and the bytes of a shard made in one go."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate, pairwise
from operator import itemgetter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime import kept
from pipeline.runtime.job import Job
from pipeline.runtime.kept import Growing, join_shards, joined, keep_result, kept_parts
from pipeline.runtime.parts import LAST, Parts
from pipeline.runtime.stage_build import build
from pipeline.runtime.tars import write_shard
from pipeline.runtime.units import Made, Row, ShardResult, Unit
from schemas.atomic import sha256_file
from schemas.config import Experiment, Ray
from schemas.errors import UserError
from schemas.stage import StageRecord, StageSpec
from schemas.tables import GUIDE_INDEX, video_key
from tests.pipeline.runtime.stamping import Stamp

pytestmark = pytest.mark.timeout(180)


def shards(*sizes: int) -> list[Unit]:
    names = [[f"{shard}/{video}.mp4" for video in range(size)] for shard, size in enumerate(sizes)]
    return [Unit(s, [{"key": video_key(n), "video_id": n} for n in group]) for s, group in enumerate(names)]


def places(parts: Parts, workers: int) -> Iterator[Unit]:
    while parts:
        yield parts.take(workers)


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    step=st.integers(0, 12),
    workers=st.integers(1, 9),
    made=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(1, 3)), max_size=4),
    pace=st.sampled_from([None, 0.01, 1.0, 1000.0]),
)
def test_every_row_is_handed_out_once_and_in_order(
    sizes: list[int], step: int, workers: int, made: list[tuple[int, int, int]], pace: float | None
) -> None:
    units = shards(*sizes)
    grid = step or max(sizes)
    done: dict[int, list[tuple[int, int]]] = {}
    for shard, first, count in made:  # parts of an earlier run, at multiples of the step, that do not overlap
        if shard < len(units) and not done.get(shard):
            start, stop = (min(sizes[shard], place * grid) for place in (first, first + count))
            done[shard] = [(start, stop)] if start < stop else []
    parts = Parts(units, step, done)
    if pace is not None:
        parts.went(round(pace * 100), 100)
    taken = list(places(parts, workers))
    for unit in units:
        mine = [part for part in taken if part.shard == unit.shard]
        missing = [n for n in range(len(unit.rows)) if not any(a <= n < b for a, b in done.get(unit.shard, []))]
        assert [row for part in mine for row in part.rows] == [unit.rows[n] for n in missing]
        for part in mine:
            assert part.rows == unit.rows[part.first : part.first + len(part.rows)]
            assert part.whole == (len(part.rows) == len(unit.rows))
            assert step == 0 or part.first % step == 0


def test_a_single_shard_keeps_all_workers_busy_to_the_end() -> None:
    """1000 videos of a second each, in one tar: simulated, the workers of the engine's loop."""
    for workers, step in ((2, 1), (8, 1), (8, 10), (64, 1)):
        parts = Parts(shards(1000), step)
        free = [(0.0, worker) for worker in range(min(workers, parts.most_workers))]
        assert len(free) == workers
        busy = end = 0.0
        while parts:
            now, worker = heapq.heappop(free)
            seconds = float(len(parts.take(workers).rows))
            parts.went(round(seconds), seconds)
            busy, end = busy + seconds, max(end, now + seconds)
            heapq.heappush(free, (now + seconds, worker))
        assert 1 - busy / (end * workers) < 0.08, (workers, step)


def busy_share(videos: list[Unit], workers: int, cost: Callable[[Row], float]) -> float:
    """Simulated: videos that take their row's seconds."""
    parts, free = Parts(videos, 1, cost=cost), [(0.0, worker) for worker in range(workers)]
    busy = end = 0.0
    while parts:
        now, worker = heapq.heappop(free)
        seconds = sum(float(row["seconds"]) for row in parts.take(workers).rows)
        busy, end = busy + seconds, max(end, now + seconds)
        heapq.heappush(free, (now + seconds, worker))
    return busy / (end * workers)


def test_videos_of_any_length_leave_nobody_waiting_where_it_is_known_which_are_long() -> None:
    """1000 of 1 to 9 seconds among 64 workers, 16 each: what is long is not begun last. Without the lengths it is."""
    rows = [{"seconds": 1 + (number * 37 % 97) ** 2 / 1152} for number in range(1000)]
    units = [Unit(0, rows)]
    assert busy_share(units, 64, lambda row: float(row["seconds"])) > 0.95 > busy_share(units, 64, lambda row: 1.0)


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4), step=st.integers(1, 7), workers=st.integers(2, 9),
       costs=st.lists(st.floats(0, 9), min_size=1, max_size=9))  # fmt: skip
def test_the_last_parts_are_single_steps_the_longest_first(
    sizes: list[int], step: int, workers: int, costs: list[float]
) -> None:
    units = [Unit(shard, [{"cost": costs[(shard + n) % len(costs)]} for n in range(size)])
             for shard, size in enumerate(sizes)]  # fmt: skip
    taken = list(places(Parts(units, step, cost=itemgetter("cost")), workers))
    for unit in units:
        mine = sorted((part for part in taken if part.shard == unit.shard), key=lambda part: part.first)
        assert [row for part in mine for row in part.rows] == unit.rows
        assert [part.first for part in mine] == [0, *accumulate(len(part.rows) for part in mine)][:-1]
    last = []
    for part in reversed(taken):
        if len(part.rows) > step or sum(map(len, (each.rows for each in last))) > LAST * (workers - 1) * step - step:
            break
        last.append(part)
    seconds = [sum(row["cost"] for row in part.rows) for part in last]
    assert seconds == sorted(seconds)


def test_parts_are_short_until_it_is_known_how_fast_they_go_and_take_a_minute_then() -> None:
    parts = Parts(shards(100_000), 1)
    assert len(parts.take(2).rows) == 16
    parts.went(16, 8.0)
    assert len(parts.take(2).rows) == 120
    parts.went(120, 6000.0)  # slower than one a minute
    assert len(parts.take(2).rows) == 1


@given(cuts=st.lists(st.integers(0, 12), max_size=4), data=st.data())
def test_joined_tars_are_the_tar_of_all_samples(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], data: st.DataObject
) -> None:
    """Also where a part has no sample."""
    folder = tmp_path_factory.mktemp("join")
    contents = data.draw(st.lists(st.binary(max_size=30_000), min_size=12, max_size=12))
    samples = [(f"{n:016d}", {"mp4": content, "json": b"{}"}) for n, content in enumerate(contents)]
    offsets = write_shard(folder / "whole.tar", samples)
    edges = sorted([0, *cuts, 12])
    parts, found = [], []
    for n, (first, stop) in enumerate(pairwise(edges)):
        found.append(write_shard(folder / f"{n}.tar", samples[first:stop]))
        parts.append((folder / f"{n}.tar", sum(found[-1][-1]) if found[-1] else 0))
    begin = join_shards(folder / "joined.tar", parts)
    assert (folder / "joined.tar").read_bytes() == (folder / "whole.tar").read_bytes()
    assert [(b + o, n) for b, part in zip(begin, found, strict=True) for o, n in part] == offsets


class Closed(Stamp):
    """Says when what it began is given up."""

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        try:
            yield from super().run(unit)
        finally:
            self.log.with_suffix(".closed").touch()


def make(
    folder: Path,
    log: Path,
    *sizes: int,
    options: Ray | None = None,
    worker: type[Stamp] = Stamp,
    failing: str = "100%",
    **stamp: str,
) -> StageRecord:
    job = Job(
        spec=StageSpec("toy", folder, {"a": 1}, {"clips": "digest"}),
        units=shards(*sizes),
        worker=lambda into: worker(into, log, **stamp),
        schema=GUIDE_INDEX,
        table="index.parquet",
        tools=[],
    )
    return build(job, Experiment(workspace="unused", ray=options or Ray(workers=2), max_failures=failing))


def visible(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("stage.json", "log.txt")}


def part(folder: Path, unit: Unit, first: int, stop: int) -> Made:
    mine = Unit(unit.shard, unit.rows[first:stop], first, whole=False)
    *_, result = Stamp(folder, folder / "log").run(mine)
    assert isinstance(result, ShardResult)
    return Made(mine, result)


def test_parts_that_are_no_parts_are_removed(tmp_path: Path) -> None:
    """Half-written, without its file, of a shard that is done, or over another."""
    done, unit = shards(4, 9)
    for shard, first, stop in ((done, 0, 2), (unit, 0, 3), (unit, 2, 5), (unit, 5, 6), (unit, 6, 9)):
        made = part(tmp_path, shard, first, stop)
        keep_result(tmp_path, made.result, made.unit.name)
    place = tmp_path / ".parts" / "000001"
    (place / "000005-000006.tar").unlink()
    (place / "000006-000009.json").write_text("{")
    assert [(each.unit.first, len(each.unit.rows)) for each in kept_parts(tmp_path, [unit])[1]] == [(0, 3)]
    assert sorted(path.name for path in place.iterdir()) == ["000000-000003.json", "000000-000003.tar"]
    assert not (tmp_path / ".parts" / "000000").exists()


def test_a_run_that_ended_before_it_joined_does_that(tmp_path: Path) -> None:
    (unit,) = shards(9)
    for first, stop in ((3, 9), (0, 3)):
        made = part(tmp_path, unit, first, stop)
        keep_result(tmp_path, made.result, made.unit.name)
    with Growing(tmp_path, [unit]) as growing:
        assert not Parts([unit], 1, growing.places)
        (result,) = growing.finished(wait=True)
        assert not growing.places  # of a shard that is done nothing is held
    *_, whole = Stamp(tmp_path / "calm", tmp_path / "log").run(unit)
    assert result == ShardResult(0, whole.rows, whole.failures, whole.files, {"compute": 2.0})  # type: ignore[union-attr]
    assert (tmp_path / "000000.tar").read_bytes() == (tmp_path / "calm" / "000000.tar").read_bytes()
    assert not (tmp_path / ".parts" / "000000").exists()


def test_a_kill_while_parts_are_joined_loses_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one shard may share a file, which each of them needs to count as done."""
    (unit,) = shards(9)
    parts = []
    for first, stop in ((0, 3), (3, 9)):
        made = part(tmp_path, unit, first, stop)
        shared = made.unit.beside("000000.basis.npz")
        (tmp_path / shared).write_bytes(b"basis")
        files = {**made.result.files, shared: sha256_file(tmp_path / shared)}
        parts.append(Made(made.unit, replace(made.result, files=files)))
        keep_result(tmp_path, parts[-1].result, made.unit.name)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(kept, "keep_result", killed)
        joined(tmp_path, parts)
    assert kept_parts(tmp_path, [unit]) == {0: parts}
    assert set(joined(tmp_path, parts).files) == {"000000.tar", "000000.basis.npz"}
    assert (tmp_path / "000000.basis.npz").read_bytes() == b"basis" and not (tmp_path / ".parts" / "000000").exists()


@pytest.mark.medium
def test_a_run_over_its_budget_stays_so_when_it_is_begun_again(tmp_path: Path) -> None:
    """Also where the last part went over it, so that nothing is left to make; and what was begun is given up at once,
    though the error is held."""
    asked = {"options": Ray(address="none"), "failing": "0", "worker": Closed}
    for _ in range(2):
        with pytest.raises(UserError, match="12 of 120 videos failed"):
            make(tmp_path / "out", tmp_path / "log", 120, **asked)  # type: ignore[arg-type]
        assert (tmp_path / "log.closed").exists()
    assert make(tmp_path / "out", tmp_path / "log", 120, **{**asked, "failing": "12"}).counts["failed"] == 12  # type: ignore[arg-type]
