"""What a process that reads videos may do, in a module that takes no time to import there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pipeline.media.video import NotAVideo


def misbehave(task: str) -> str | NotAVideo:
    """Runs in a process of its own."""
    if task == "die" or (task.startswith("once:") and not Path(task[5:]).exists()):
        if task != "die":
            Path(task[5:]).touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "hang":
        time.sleep(600)
    if task == "fault":
        raise KeyError("a fault of ours")
    return NotAVideo("bad") if task == "bad" else task.upper()
