"""How a process ends: with its parent, and on SIGTERM as Slurm, Docker and Kubernetes send it."""

from __future__ import annotations

import ctypes
import signal
import sys
from types import FrameType
from typing import NoReturn

TERMINATED = 128 + signal.SIGTERM  # the exit status that shells and schedulers know
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """From now on the kernel sends SIGTERM when the parent is gone, however it went. Linux only; else does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def exit_on_sigterm(message: str) -> None:
    """On SIGTERM prints `message` and exits with TERMINATED, running what `finally` and `with` promise."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, stop)
