"""What one video does to its process costs that video alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.processes import Isolated, ProcessDied, map_processes
from pipeline.media.video import NotAVideo, TooMuchMemory, Unforeseen, VideoTimeout, as_video_error
from schemas.errors import UserError


def misbehave(task: str) -> str:
    """Runs in a process of its own."""
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "hang":
        signal.pause()
    if task == "eat":
        return str(np.ones(1 << 28, np.uint64).sum())
    if task == "bad":
        raise NotAVideo("bad")
    return str([][5]) if task == "odd" else task.upper()


@pytest.mark.medium
def test_each_way_to_fail_is_the_tasks_own() -> None:
    isolated = Isolated(misbehave, time_limit=60, memory=1 << 30)
    assert isolated.run("a") == "A"
    for task, kind, said in (
        ("bad", NotAVideo, "bad"),
        ("odd", Unforeseen, r"IndexError: list index out of range .test_processes.py:\d+"),
        ("eat", TooMuchMemory, "memory"),
        ("die", ProcessDied, "died, 2 times .signal SIGKILL.: it may need too much memory"),
    ):
        with pytest.raises(kind, match=said):
            isolated.run(task)
    assert isolated.run("b") == "B"
    isolated.close()


def test_a_hanging_process_is_ended() -> None:
    isolated = Isolated(misbehave, time_limit=20)
    assert isolated.run("a") == "A"
    isolated._time_limit = 0.2
    with pytest.raises(VideoTimeout):
        isolated.run("hang")


def test_an_exception_without_words_has_its_class(tmp_path: Path) -> None:
    assert str(as_video_error(ZeroDivisionError())) == "ZeroDivisionError"


class StartsBadly:
    """The first `times` processes that it is handed to are killed while they start."""

    def __init__(self, log: Path, times: int) -> None:
        self.log, self.times = log, times

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ |= state
        with open(self.log, "a") as log:
            log.write("x")
        if self.log.stat().st_size <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, task: str) -> str:
        return task.upper()


@pytest.mark.medium
def test_a_process_killed_while_it_starts_is_started_again(tmp_path: Path) -> None:
    found = dict(map_processes(StartsBadly(tmp_path / "log", 1), ["a", "b"], processes=1, time_limit=60))
    assert found == {0: "A", 1: "B"}
    with pytest.raises(UserError, match=r"do not start .signal SIGKILL, 3 in a row.: is memory short"):
        list(map_processes(StartsBadly(tmp_path / "never", 9), ["a"], processes=1, time_limit=60))
