"""How the tests share the cores: those of one file stay together, for its fixtures, and so do those of `finished`."""

from __future__ import annotations

import os

import pytest

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray's 15 would let workers wait for tests on the other core
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of two processes on one core wait for each other, spinning


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups with slow tests come first (with --no-loadscope-reorder), or one core ends with a long one alone."""
    groups = {item: "finished" if "finished" in getattr(item, "fixturenames", ()) else item.path.name for item in items}
    slow = {groups[item] for item in items if item.get_closest_marker("slow")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item]))
    items.sort(key=lambda item: groups[item] not in slow)
