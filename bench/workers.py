"""Whether a second worker halves the time, for a set that fits one tar: shard, caption and guide.

    python bench/workers.py [--data FOLDER] [--videos 48] [--rounds 3] [--only sleeping shard] [--out FILE]

FOLDER holds class folders of videos; without it, videos of the embedded world are drawn. Every stage is made by 1 and
by 2 Ray actors in turn, from the first finished video (so that starting up is left out) until its one shard is joined;
medians over rounds. `speedup` is what the clock says, and suffers from all else that runs on the machine; `busy` is the
share of the workers' time in which they had work to do, which does not. Caption takes BLIP-2 with random weights at a
middling size (bench/caption.py), guide the crops of the demo's encoder.

`sleeping`: the same with a worker that sleeps half a second a video and stores 100 kB, so that no core is needed and
the machinery alone is seen: Ray, the scheduler, the parts on disk and their joining. `ceiling` is how much further two
processes come that do nothing but count. --only measures some of the four and leaves what FILE says of the others.

Why two are not twice as fast is measured in the same rounds: seconds and CPU seconds a video of the workers under Ray,
by one and by two, and of the same worker in one and in two plain processes (bench/metered.py).

`tails`: the share of time in which workers stand idle, for 1,000 videos in one tar and 2, 8 and 64 workers: the
stage's own scheduler (pipeline/runtime/parts.py) fed with the seconds of each video that were recorded here, simulated,
for this machine has no 64 cores. A group of captions is drawn whole, as its batches are. `known` is what the longest
first, all by themselves and with their seconds known beforehand, would leave.
"""

from __future__ import annotations

import argparse
import heapq
import json
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from caption import middling
from metered import VIDEOS, Metered, plain
from turn import nice

from pipeline import caption, guide, shard
from pipeline.index import run_index
from pipeline.runtime.engine import execute
from pipeline.runtime.job import Job
from pipeline.runtime.kept import Growing
from pipeline.runtime.parts import Parts
from pipeline.runtime.ray_session import connected
from pipeline.runtime.tars import new_shard
from pipeline.runtime.units import Advance, Made, Row, ShardResult, Unit
from pipeline.world.write import write_world
from schemas.atomic import sha256_file
from schemas.config import Experiment, Ray
from schemas.stage import StageSpec
from schemas.tables import CLIP_INDEX
from tgmae.shipped_files import WORLD_MODELS


class Group(NamedTuple):
    """Videos that are made together: one, or those whose captions share batches."""

    seconds: float  # a video
    rows: list[Row]


COUNTS = (1, 2)
SLEEP = 0.5  # seconds a video
TAIL_VIDEOS, TAIL_WORKERS = 1000, (2, 8, 64)
MAKE: dict[str, Callable[[Experiment], Any]] = {
    "shard": shard.run_shard, "caption": caption.run_caption, "guide": guide.run_guide,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="class folders of videos")
    parser.add_argument("--videos", type=int, default=48, help="at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=("sleeping", *MAKE), default=["sleeping", *MAKE])
    parser.add_argument("--out", type=Path, help="the JSON; by default it is printed")
    options = parser.parse_args()
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  its own is 15: others would be served first
    known = json.loads(options.out.read_bytes()) if options.out and options.out.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    found |= {name: known.get(name, {}) | found[name] for name in ("stages", "tails", "known")}
    text = json.dumps(found, indent=1) + "\n"
    print(text) if options.out is None else options.out.write_text(text)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    stages, tails, known = {}, {}, {}
    wanted = [name for name in MAKE if name in options.only]
    with connected(Ray()):
        if "sleeping" in options.only:
            stages["sleeping"], _ = compared(sleeping(), folder / "out", options.rounds)
        experiment = prepared(options, folder) if wanted else None
        for name in MAKE if wanted else ():
            assert experiment is not None
            if name not in wanted:  # what comes before it
                MAKE[name](experiment)
                continue
            job = captured(name, MAKE[name], experiment)
            stages[name], groups = compared(job, folder / "out", options.rounds)
            stages[name]["data"] = options.data.name if options.data else "the embedded world, 256 px"
            tails[name] = {str(count): round(tail(groups, count, job), 4) for count in TAIL_WORKERS}
            known[name] = {str(count): round(best_tail(groups, count, job), 4) for count in TAIL_WORKERS}
            if name == wanted[-1]:
                break
            MAKE[name](experiment)
    return {"stages": stages, "tails": tails, "known": known, "tail_videos": TAIL_VIDEOS, "rounds": options.rounds,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}", "nice": nice()}  # fmt: skip


def ceiling() -> float:
    """How many times as far two processes that only count come as one does: what two workers can reach here."""
    reached = []
    for processes in COUNTS:
        with multiprocessing.Pool(processes) as pool:
            reached.append(sum(pool.map(counted, [1.0] * processes, chunksize=1)))
            pool.close()
            pool.join()  # ended, not killed: Ray's handler of signals, which a fork has, would print a trace
    return reached[1] / reached[0]


def counted(seconds: float) -> int:
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        count += 1
    return count


def compared(job: Job, folder: Path, rounds: int) -> tuple[dict[str, Any], list[Group]]:
    """By one and by two workers in turn, and by plain processes; and the seconds of groups of videos."""
    found: dict[int, list[dict[str, float]]] = {count: [] for count in COUNTS}
    alone: dict[int, list[dict[str, float]]] = {count: [] for count in COUNTS}
    groups: list[Group] = []
    ceilings: list[float] = []
    (unit,) = job.units
    some = Unit(unit.shard, unit.rows[: max(job.step, len(unit.rows) // 3 // job.step * job.step)])
    for _ in range(rounds):
        ceilings.append(ceiling())
        for count in COUNTS:
            found[count].append(timed(job, folder, count, groups))
            if job.holds_model:
                alone[count].append(plain(job.worker, some, count))
    one, two = map(medians, found.values())
    speedups = [round(a["seconds"] / b["seconds"], 2) for a, b in zip(*found.values(), strict=True)]
    return {
        "one": one, "two": two, "speedup": round(one["seconds"] / two["seconds"], 2), "speedup_rounds": speedups,
        "grows": {key: growth(*found.values(), key) for key in ("busy_seconds", "cpu_seconds")},
        "plain_grows": {key: growth(*alone.values(), key) for key in ("busy", "cpu") if alone[1]},
        "ceiling": round(statistics.median(ceilings), 2),
        "step": job.step, "videos": len(job.units[0].rows), "load": round(os.getloadavg()[0], 1),
    }, groups  # fmt: skip


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(each[key] for each in rounds), 3) for key in rounds[0]}


def growth(one: list[dict[str, float]], two: list[dict[str, float]], key: str) -> float:
    """How many times as large by two: median over rounds."""
    return round(statistics.median(b[key] / a[key] for a, b in zip(one, two, strict=True)), 3)


class Sleeper:
    """Stores a sample a video, after a sleep."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        began, rows, path = time.perf_counter(), [], self._folder / unit.tar
        with new_shard(path) as tar:
            for row in unit.rows:
                time.sleep(SLEEP)
                offset, length = tar.add(row["key"], {"mp4": bytes(100_000)})
                rows.append({"offset": offset, "length": length})
                yield 1
        seconds = {"compute": time.perf_counter() - began}
        yield ShardResult(unit.shard, rows, [], {unit.tar: sha256_file(path)}, seconds)


def sleeping() -> Job:
    rows = [{"key": f"{number:016d}"} for number in range(108)]
    return Job(spec=StageSpec("sleeping", Path(), {}, {}), units=[Unit(0, rows)], worker=Sleeper, table="",
               schema=CLIP_INDEX, tools=[])  # fmt: skip


def prepared(options: argparse.Namespace, folder: Path) -> Experiment:
    data = folder / "data"
    if options.data is None:
        write_world(data, videos=options.videos, size=256, frames=90, fps=25, test_share=0.25, workers=1)
    else:
        videos = sorted(path for path in options.data.rglob("*") if path.is_file())
        for path in videos[:: max(1, len(videos) // options.videos)][: options.videos]:
            (data / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, data / path.parent.name)
    blip2 = {"model": middling(folder / "blip2"), "device": "cpu", "batch_size": 8, "max_new_tokens": 12,
             "min_new_tokens": 12}  # fmt: skip
    text = {"model": f"local-dir:{WORLD_MODELS / 'clip'}", "device": "cpu", "frame_stride": 8}
    experiment = Experiment.model_validate(
        {"workspace": str(folder / "work"), "index": {"data": str(data)}, "max_failures": "100%", "text": text,
         "caption": {"blip2": blip2}, "ray": {"workers": 2}}
    )  # fmt: skip
    run_index(experiment)
    return experiment


def captured(name: str, make: Callable[[Experiment], Any], experiment: Experiment) -> Job:
    """What the stage would hand to its building."""
    jobs: list[Job] = []
    with patch.object(__import__(f"pipeline.{name}", fromlist=[name]), "build", lambda job, _: jobs.append(job)):
        make(experiment)
    assert len(jobs[0].units) == 1, "the set should fit one shard"
    return jobs[0]


def timed(job: Job, folder: Path, workers: int, groups: list[Group]) -> dict[str, float]:
    """Seconds from the first worker's start to the end, the workers' share of it with work; adds those of groups."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / ".parts").mkdir(parents=True)
    began: dict[str, float] = {}  # by worker, when it started
    owner: dict[int, str] = {}  # by a part's first row
    busy = cpu = 0.0
    events = execute(
        Parts(job.units, job.step, cost=job.cost),
        partial(Metered, job.worker, folder),
        Ray(workers=workers),
        holds_model=job.holds_model,
    )
    driver = time.process_time()
    with Growing(folder, job.units) as growing:
        for event in events:
            now = time.perf_counter()
            if isinstance(event, Made):
                growing.add(event)
                busy, cpu = busy + event.result.seconds["busy"], cpu + event.result.seconds["cpu"]
                began.setdefault(owner[event.unit.first], now - event.result.seconds["busy"])
                for first in range(0, len(event.unit.rows), job.step):
                    rows = event.unit.rows[first : first + job.step]
                    ends = event.result.side[VIDEOS][first : first + job.step]
                    groups.append(Group(sum(each["seconds"] for each in ends) / len(rows), rows))
            elif isinstance(event, Advance):
                owner[event.unit.first] = event.worker
        list(growing.finished(wait=True))
    end, videos = time.perf_counter(), len(job.units[0].rows)
    return {"seconds": end - min(began.values()), "busy": busy / sum(end - start for start in began.values()),
            "busy_seconds": busy / videos, "cpu_seconds": cpu / videos,
            "driver_cpu": (time.process_time() - driver) / videos}  # fmt: skip


def tail(groups: list[Group], workers: int, job: Job) -> float:
    """The share of time that workers stand idle."""
    rows = drawn(groups)
    parts = Parts([Unit(0, rows)], job.step, cost=lambda row: job.cost(row["row"]))
    free = [(0.0, worker) for worker in range(min(workers, parts.most_workers))]
    busy = end = 0.0
    while parts:
        now, worker = heapq.heappop(free)
        unit = parts.take(workers)
        took = sum(float(row["seconds"]) for row in unit.rows)
        parts.went(len(unit.rows), took)
        busy, end = busy + took, max(end, now + took)
        heapq.heappush(free, (now + took, worker))
    return 1 - busy / (end * workers)


def best_tail(groups: list[Group], workers: int, job: Job) -> float:
    """What a scheduler would leave that knows the seconds: the longest step of all first."""
    rows = drawn(groups)
    steps = [sum(row["seconds"] for row in rows[first : first + job.step]) for first in range(0, len(rows), job.step)]
    ends = [0.0] * workers
    for seconds in sorted(steps, reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return 1 - sum(steps) / (max(ends) * workers)


def drawn(groups: list[Group]) -> list[dict[str, Any]]:
    """TAIL_VIDEOS videos: their seconds, and their rows."""
    draw, rows = random.Random(0), []
    while len(rows) < TAIL_VIDEOS:
        group = draw.choice(groups)
        rows += [{"seconds": group.seconds, "row": row} for row in group.rows]
    return rows[:TAIL_VIDEOS]


if __name__ == "__main__":
    main()
