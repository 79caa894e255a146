"""The lock of a folder ends with the process that holds it, and with nothing else."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from schemas.errors import UserError
from schemas.lock import only_writer, writer

FORK = get_context("fork")


def hold(folder: Path, to_test: Connection) -> None:
    with only_writer(folder):
        worker = FORK.Process(target=time.sleep, args=(60,))
        worker.start()
        to_test.send(worker.pid)
        time.sleep(60)


def test_a_killed_holder_s_forked_processes_keep_no_lock(tmp_path: Path) -> None:
    """As a trainer's loaders, which notice its death seconds later."""
    folder = tmp_path / "run"
    ours, theirs = FORK.Pipe()
    holder = FORK.Process(target=hold, args=(folder, theirs))
    holder.start()
    theirs.close()
    worker = ours.recv()
    try:
        assert f"process {holder.pid} on " in writer(folder)
        with pytest.raises(UserError, match="is being written by process"), only_writer(folder):
            pass
        holder.kill()
        holder.join()
        assert writer(folder) == ""
        with only_writer(folder):
            assert f"process {os.getpid()} on " in writer(folder)
    finally:
        holder.kill()
        os.kill(worker, signal.SIGKILL)


def fail_then_fork(folder: Path, to_test: Connection) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    with suppress(OSError), only_writer(folder):
        raise AssertionError("the disk is full")
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with open(folder / "data", encoding="utf-8") as file:
        reader = FORK.Process(target=lambda: to_test.send(file.read()))
        reader.start()
        reader.join()


def test_a_lock_that_could_not_be_written_leaves_other_files_alone(tmp_path: Path) -> None:
    """The next file that is opened has its number."""
    (tmp_path / "data").write_text("content")
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=fail_then_fork, args=(tmp_path, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "content"
    process.join()
    assert process.exitcode == 0 and writer(tmp_path) == ""
