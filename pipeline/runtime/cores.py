"""The cores that a worker really has, and how many threads decode ahead of its model."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds in a period, and the period's; or "max"
MOST_THREADS = 16  # that decode for one model: beyond, memory is all that grows

_share = 0.0  # of this machine's cores, that the worker in this process has; 0: all of them


def machine_cores() -> float:
    """That this process may use: its affinity, and the limit of its container."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with suppress(OSError, ValueError):
        quota, period = QUOTA.read_text().split()
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    return cores


def share_cores(cores: float) -> None:
    """Says how many of the machine's cores the worker in this process has, next to other workers."""
    global _share
    _share = cores


def decoding_threads(asked: int) -> int:
    """`asked`, or where that is 0 one a core of this worker."""
    cores = machine_cores() if _share == 0 else min(_share, machine_cores())
    return asked or min(MOST_THREADS, max(1, int(cores)))
