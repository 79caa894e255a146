"""Processes that a process has started, and those that these have."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def descendants(root: int, words: bytes) -> list[int]:
    """Those with `words` in their command line, such as Ray's workers with the name of what they hold."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    found = []
    for number in parents:
        above = number
        while above not in (0, root):
            above = parents.get(above, 0)
        with suppress(OSError):
            if above == root and words in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(number)
    return found
