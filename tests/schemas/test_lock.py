"""The lock of a folder ends with the process that holds it, and with nothing else."""

from __future__ import annotations

import os
import signal
import time
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
        os.kill(worker, signal.SIGKILL)


def test_an_error_inside_ends_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), only_writer(tmp_path / "run"):
        raise ValueError("inside")
    assert writer(tmp_path / "run") == ""
