"""What workers of the tests do on purpose; importable by the workers of Ray."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from schemas.errors import UserError


def misbehave(name: str, log: Path, *, die: str = "", broken: str = "") -> None:
    """At the video `die` the process is killed, once in the life of `log`; `broken` stops the stage."""
    if name == die:
        die_once(log)
    if name == broken:
        raise UserError(f"the model does not like {name}")


def die_once(log: Path, *, after: float = 0.0) -> None:
    """Kills this process after so many seconds, the first time."""
    if not log.with_suffix(".died").exists():
        log.with_suffix(".died").touch()
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGKILL)
