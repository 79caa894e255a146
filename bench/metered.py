"""A stage's worker with its meters, and the same worker in plain processes, without Ray, parts or files in common.

CPU seconds count what a worker's process and the decoders that it starts have computed. They do not grow where other
work takes the cores, but where two that run at once hinder each other inside the processor: caches, memory, shared
units.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from pipeline.runtime.units import ShardResult, Unit, Worker

VIDEOS = "seconds of videos"  # among a result's side tables


class Metered:
    """Adds to the seconds of a result `busy`, of the clock, and `cpu`; and to its side tables when each video ended."""

    def __init__(self, make: Callable[[Path], Worker], folder: Path) -> None:
        self._worker = make(folder)

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        began, cpu, before, ends = time.perf_counter(), cpu_seconds(), time.perf_counter(), []
        for event in self._worker.run(unit):
            if isinstance(event, ShardResult):
                seconds = {"busy": time.perf_counter() - began, "cpu": cpu_seconds() - cpu}
                event = replace(event, seconds={**event.seconds, **seconds}, side={VIDEOS: ends})
            else:
                now = time.perf_counter()
                ends += [{"seconds": (now - before) / event}] * event
                before = now
            yield event


def cpu_seconds() -> float:
    """Of this process and of those that it has started, by the kernel's count (Linux)."""
    pids, ticks = [os.getpid()], 0
    while pids:
        place = Path(f"/proc/{pids.pop()}")
        with suppress(OSError):  # one that has just ended is in its parent's count
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # user, system, and of children that have ended
            pids += [int(pid) for task in (place / "task").iterdir() for pid in (task / "children").read_text().split()]
    return ticks / os.sysconf("SC_CLK_TCK")


def plain(make: Callable[[Path], Worker], unit: Unit, processes: int) -> dict[str, float]:
    """Seconds a video, of the clock and of the processor, of so many processes that do the same unit at once."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.SimpleQueue()
    import cloudpickle

    work = cloudpickle.dumps((make, unit))
    started = [context.Process(target=_plain, args=(work, barrier, results)) for _ in range(processes)]
    for process in started:
        process.start()
    found = [results.get() for _ in started]
    for process in started:
        process.join()
    return {key: sum(each[key] for each in found) / processes / len(unit.rows) for key in found[0]}


def _plain(work: bytes, barrier: Barrier, results: Any) -> None:
    import cloudpickle
    import torch

    from pipeline.runtime.cores import share_cores

    torch.set_num_threads(1)  # as Ray's workers of one core
    share_cores(1)
    make, unit = cloudpickle.loads(work)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ".parts").mkdir()
        worker = Metered(make, Path(folder))
        barrier.wait()
        *_, result = worker.run(Unit(unit.shard, unit.rows))
    assert isinstance(result, ShardResult)
    results.put({key: result.seconds[key] for key in ("busy", "cpu")})


if __name__ == "__main__":
    print(os.cpu_count())  # `make bench` runs every program here
