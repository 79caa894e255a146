"""The cores that this process may use, which in a container or under a scheduler are fewer than the machine's."""

import os
from contextlib import suppress
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds in a period, and the period's; or "max"


def usable_cores() -> int:
    """By affinity and by the container's limit, rounded down; at least 1."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with suppress(OSError, ValueError):
        quota, period = QUOTA.read_text().split()
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    return max(1, int(cores))
