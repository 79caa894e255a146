"""What one video does to its process costs that video alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.processes import Isolated, ProcessDied
from pipeline.media.video import NotAVideo, TooMuchMemory, Unforeseen, VideoTimeout, as_video_error


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
