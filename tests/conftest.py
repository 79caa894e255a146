"""How the tests share two cores: those of one file stay together, for its fixtures, and so do those of `finished`."""

from __future__ import annotations

import os

import pytest

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray's 15 would let workers wait for tests on the other core


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        group = "finished" if "finished" in getattr(item, "fixturenames", ()) else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
