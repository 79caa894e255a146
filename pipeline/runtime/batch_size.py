"""How many inputs a model is given at once where batch_size = 0: a usual number on CPUs, on a GPU what pays.

It is found once, by one worker, before a stage is begun, and from then on it is as if it had been asked for: all
workers and every run that resumes use it, and the stage's record names it. What does not fit later is halved
(device.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

WORTH = 2048  # frames that a stage must look at: with fewer it ends before a search pays
LEAST, MOST = 16, 8  # a 16th of the usual number is tried first, 8 times as many at last
GAIN = 1.05  # times as fast, at least, is what a larger batch must be
MEMORY = 0.8  # of the worker's share of the GPU, at most: other inputs may need more than those that are tried
ROUNDS = 3  # the fastest counts: what else runs on the machine only slows


class Trial(NamedTuple):
    seconds: float  # an input
    memory: float  # its peak, of what the worker may use


class Model(Protocol):
    batch_size: int  # lowered by itself when memory runs out


Meter = Callable[[Callable[[], int]], Trial]  # what the inputs cost whose number the call returns


def found_size(model: Model, run: Callable[[int], int], usual: int, meter: Meter) -> int:
    """The batch size of a model; `run` gives it inputs, one batch of so many or more, and returns how many."""

    def trial(size: int) -> Trial:
        model.batch_size = size

        def ran() -> int:
            count = run(size)
            if model.batch_size < size:
                raise MemoryError(f"{size} at once do not fit")
            return count

        return meter(ran)

    return largest_that_pays(trial, max(1, usual // LEAST), usual * MOST)


def largest_that_pays(trial: Callable[[int], Trial], first: int, most: int) -> int:
    """`first` x 1, 2, 4, ... up to `most`: the last that was at least GAIN times as fast as what was chosen before it
    and kept to MEMORY; `first` where that does not fit itself.

    Two sizes in a row that do not pay end the search, and so does one that does not fit, of which `trial` raises
    MemoryError.
    """
    best, fastest, idle, size = first, float("inf"), 0, first
    while size <= most and idle < 2:
        try:
            found = trial(size)
        except MemoryError:
            break
        if found.memory > MEMORY:
            break
        pays = found.seconds * GAIN <= fastest
        if pays:
            best, fastest = size, found.seconds
        idle = 0 if pays else idle + 1
        size *= 2
    return best


def meter_of(device: str, share: float) -> Meter | None:
    """Of a GPU that the worker has `share` of; None on a CPU."""
    import torch  # in workers only

    from pipeline.runtime.device import torch_device

    place = torch_device(device)
    if place.type != "cuda":
        return None

    def seconds(run: Callable[[], int]) -> float:
        torch.cuda.synchronize(place)
        began = time.perf_counter()
        count = run()
        torch.cuda.synchronize(place)
        return (time.perf_counter() - began) / count

    def meter(run: Callable[[], int]) -> Trial:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place)
        free, total = torch.cuda.mem_get_info(place)
        room = min(share * total, free + torch.cuda.memory_reserved(place))
        run()  # what is chosen or compiled at first is not counted
        fastest = min(seconds(run) for _ in range(ROUNDS))
        return Trial(fastest, torch.cuda.max_memory_reserved(place) / room)

    return meter
