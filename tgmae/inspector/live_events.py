"""A running job, read from the workspace's event log (schemas/events.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.events import FILE, read_since

TAIL = 400_000  # bytes that a page gets when it begins


def since(root: Path, after: int) -> dict[str, Any]:
    """The events after that byte of the log, and the byte to go on from; with 0, those of its last TAIL bytes."""
    return read_since(root / FILE, after, tail=TAIL)
