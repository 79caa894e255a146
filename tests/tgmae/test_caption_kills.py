"""Captions killed in the middle, by the command that a user types: nothing lost, little made twice, the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.toml import load_experiment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TABLES = ("captions.parquet", "failures.parquet")
SLOWLY = [  # many frames, one at a time, many words: a second a shard, so that there is a middle
    "caption.videos_per_shard=4", "caption.keyframes=9", "caption.blip2.batch_size=1",
    "caption.blip2.max_new_tokens=30", "caption.blip2.min_new_tokens=30",
]  # fmt: skip


def start(config: Path, workspace: Path) -> subprocess.Popen[bytes]:
    settings = [word for each in SLOWLY for word in ("--set", each)]
    command = [sys.executable, "-m", "tgmae", "caption", str(workspace), "--config", str(config), *settings]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def workspace_of(finished: Path, folder: Path) -> Path:
    """One in which everything is still to be captioned."""
    shutil.copytree(Path(load_experiment(finished).workspace) / "manifest", folder / "manifest")
    return folder


def tables(workspace: Path) -> dict[str, bytes]:
    return {name: (workspace / "captions" / "blip2" / name).read_bytes() for name in TABLES}


def parts(workspace: Path) -> dict[str, int]:
    """The shards that are done, and when."""
    found = (workspace / "captions" / "blip2" / ".parts").glob("0*.json")
    return {path.name: path.stat().st_mtime_ns for path in found}


def wait_for_a_part(workspace: Path, process: subprocess.Popen[bytes]) -> None:
    while not parts(workspace):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)


def actors(root: int) -> Iterator[int]:
    """Ray's workers that hold a captioner, among the descendants of a process."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    for number in parents:
        above = number
        while above not in (0, root):
            above = parents.get(above, 0)
        try:
            if above == root and b"ray::_Actor" in Path(f"/proc/{number}/cmdline").read_bytes():
                yield number
        except OSError:
            continue


@pytest.fixture(scope="module")
def calm(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    workspace = workspace_of(finished, tmp_path_factory.mktemp("calm"))
    assert start(finished, workspace).wait() == 0
    return tables(workspace)


def test_the_command_is_killed_and_run_again(finished: Path, tmp_path: Path, calm: dict[str, bytes]) -> None:
    workspace = workspace_of(finished, tmp_path / "w")
    process = start(finished, workspace)
    wait_for_a_part(workspace, process)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = parts(workspace)
    assert 1 <= len(kept) < 6 and not (workspace / "captions" / "blip2" / "stage.json").exists()
    second = start(finished, workspace)
    seen = kept
    while second.poll() is None:
        seen = seen | parts(workspace)  # they are removed at the end
        time.sleep(0.02)
    assert second.returncode == 0 and tables(workspace) == calm
    assert {name: seen[name] for name in kept} == kept  # what was done was not done again


def test_a_worker_is_killed_and_replaced(finished: Path, tmp_path: Path, calm: dict[str, bytes]) -> None:
    workspace = workspace_of(finished, tmp_path / "w")
    process = start(finished, workspace)
    wait_for_a_part(workspace, process)
    victims = list(actors(process.pid))
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    assert process.wait() == 0 and tables(workspace) == calm
