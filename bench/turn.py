"""By what right a program gets its turn on a busy machine: what a benchmark says beside the load."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def nice() -> int:
    """Of the session where the kernel groups by sessions (`echo -15 > /proc/self/autogroup`), else of the process."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/autogroup").read_text().rpartition("nice ")[2])
    return os.nice(0)


if __name__ == "__main__":
    print(nice())  # `make bench` runs every program here
