"""How the tests share the cores: a file's stay together, for its fixtures, and so do files of a group."""

from __future__ import annotations

import atexit
import gc
import os
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from schemas.usable_cores import usable_cores

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray's 15 would let workers wait for tests on the other core
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of two processes on one core wait for each other, spinning

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background of a script: nor would what tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

with suppress(ImportError):  # a GPU machine may lack it, and its tests do not need it
    from hypothesis import settings

    settings.register_profile("tgmae", deadline=None)  # a busy machine is no failure
    settings.load_profile("tgmae")


SHARED = {"finished: Path": "finished", "tests.train.forking import": "forking"}  # text in a file -> its group

gc.disable()  # until all is imported: a fifth of the imports' time


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()  # what was imported stays: it is not looked through again and again
    atexit.register(gc.unfreeze)  # or libraries report that it leaked


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out files, those of a group as one: they share a workspace, or a process that has loaded torch."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((name for text, name in SHARED.items() if _reads(path, text)), path)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process a core, and one more where slow tests are among them: those wait a third of their time, for Ray and for
    processes that end."""
    return usable_cores() + ("slow" not in config.option.markexpr)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    gc.enable()  # in the process that collects nothing itself
    config.option.loadscopereorder = False  # the order below holds
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups come first, then files with other slow tests, or one core ends with a long one alone."""
    items.sort(key=lambda item: [not _reads(str(item.path), text) for text in (*SHARED, "mark.slow")])


@cache
def _reads(path: str, text: str) -> bool:
    return text in Path(path).read_text(encoding="utf-8")
