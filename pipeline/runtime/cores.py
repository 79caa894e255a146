"""The cores that a worker really has, and how many threads decode ahead of its model."""

from __future__ import annotations

from schemas.usable_cores import usable_cores

MOST_THREADS = 16  # that decode for one model: beyond, memory is all that grows

_share = 0.0  # of this machine's cores, that the worker in this process has; 0: all of them


def share_cores(cores: float) -> None:
    """Says how many of the machine's cores the worker in this process has, next to other workers."""
    global _share
    _share = cores


def decoding_threads(asked: int) -> int:
    """`asked`, or where that is 0 one a core of this worker."""
    cores = usable_cores() if _share == 0 else min(_share, usable_cores())
    return asked or min(MOST_THREADS, max(1, int(cores)))
