"""How a process ends: with its parent, and on SIGTERM as Slurm, Docker and Kubernetes send it."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM  # the exit status that shells and schedulers know
PATIENCE = 10.0  # seconds that an interrupted command has to end
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """From now on the kernel sends SIGTERM when the parent is gone, however it went. Linux only; else does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def exit_status(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Runs a command and waits for it; of one that a signal ended, 128 + the signal.

    Ctrl-C reaches the command, too, which has time to end by itself; then KeyboardInterrupt is raised.
    """
    child = subprocess.Popen(command, env=environment)
    try:
        status = child.wait()
    except KeyboardInterrupt:
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.terminate()
            child.wait()
        raise
    return shell_status(status)


def shell_status(code: int) -> int:
    """The exit status as shells give it: 128 + the signal of a process that one ended, for which Python gives -signal.

    Raises KeyboardInterrupt for a process that was interrupted.
    """
    status = 128 - code if code < 0 else code
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    return status


def exit_on_sigterm(message: str) -> None:
    """On SIGTERM prints `message` and exits with TERMINATED, running what `finally` and `with` promise."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, stop)
