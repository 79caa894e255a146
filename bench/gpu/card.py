"""The card, its peak, and how its work is timed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # bf16, dense, FLOP/s


class Asked(NamedTuple):
    """What a part is asked to measure."""

    device: str  # cuda or cpu
    tiny: bool  # sizes of a rehearsal
    seconds: float  # until it is stopped
    videomae: Path | None = None  # a checkout of the original code
    folder: Path = Path("work/gpu_check")  # what `prepare` made


Keep = Callable[[dict[str, Any]], None]
"""Writes what has been measured so far."""


def about(device: str) -> dict[str, Any]:
    card = torch.cuda.get_device_name() if device == "cuda" else "none: a rehearsal on the CPU"
    return {"card": card, "torch": torch.__version__, "cores": os.cpu_count()}


def peak(device: str) -> float | None:
    """bf16 FLOP/s of the card; None where it is not known."""
    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((rate for part, rate in PEAKS.items() if part in name), None)


def share(rate: float, device: str) -> float | None:
    """Of the card's peak."""
    best = peak(device)
    return None if best is None else round(rate / best, 3)


def median_seconds(work: Callable[[], Any], device: str, *, rounds: int = 10, warm: int = 3) -> float:
    for _ in range(warm):
        work()
    times = []
    for _ in range(rounds):
        done(device)
        began = time.perf_counter()
        work()
        done(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def done(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
