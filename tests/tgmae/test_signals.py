"""A command that ends takes its trainer along, however it ends; SIGTERM is answered as schedulers expect."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.config import Experiment
from schemas.signals import TERMINATED
from schemas.toml import dump
from schemas.workspace import Workspace

pytestmark = pytest.mark.slow


def children(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return [int(pid) for pid in listed.split()]


def running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_trainer_ends_with_its_command(
    small: Callable[..., Experiment], tmp_path: Path, number: signal.Signals
) -> None:
    experiment = small(optim={"epochs": 100_000}, guide="text")
    config = tmp_path / "long.toml"
    config.write_text(dump(experiment), encoding="utf-8")
    command = [sys.executable, "-m", "tgmae", "pretrain", experiment.workspace, "--config", str(config)]
    log = Workspace(Path(experiment.workspace)).run(experiment.name) / "metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert wait_until(log.is_file, 120), "no update was logged"
        (trainer,) = children(process.pid)
        os.kill(process.pid, number)
        _, shown = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == TERMINATED == 143 and "terminated; what is done is kept" in shown
    else:
        assert process.returncode == -signal.SIGKILL
    assert wait_until(lambda: not running(trainer), 30), "the trainer outlived its command"


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_ends_everything_without_a_traceback(
    small: Callable[..., Experiment], tmp_path: Path, processes: int
) -> None:
    """As a terminal sends it: to the command, its trainers, torchrun and the loaders' workers at once."""
    experiment = small(optim={"epochs": 100_000}, pretrain={"processes": processes, "workers": 1})
    config = tmp_path / "long.toml"
    config.write_text(dump(experiment), encoding="utf-8")
    command = [sys.executable, "-m", "tgmae", "pretrain", experiment.workspace, "--config", str(config)]
    folder = Workspace(Path(experiment.workspace)).run(experiment.name)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:  # fmt: skip
        assert wait_until((folder / "metrics.jsonl").is_file, 120), "no update was logged"
        os.killpg(process.pid, signal.SIGINT)
        _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert shown.splitlines()[-1] == "interrupted; what is done is kept, the same command resumes"
    assert "Traceback" not in shown and "signal" not in shown
    assert "stopped: KeyboardInterrupt" in (folder / "log.txt").read_text()
