"""Captions killed in the middle, by the command that a user types: nothing lost, little made twice, the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from pipeline.caption import run_caption
from schemas.toml import load_experiment
from tests.descendants import descendants

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TABLES = ("captions.parquet", "failures.parquet")
SLOWLY = [  # frames one at a time, many words: a third of a second a shard, so that there is a middle
    "caption.videos_per_shard=3", "caption.keyframes=4", "caption.blip2.batch_size=1",
    "caption.blip2.max_new_tokens=24", "caption.blip2.min_new_tokens=24",
]  # fmt: skip


def start(config: Path, workspace: Path, *sets: str) -> subprocess.Popen[bytes]:
    settings = [word for each in (*SLOWLY, *sets) for word in ("--set", each)]
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


def wait_for_a_part(workspace: Path, process: subprocess.Popen[bytes], known: Collection[str] = ()) -> dict[str, int]:
    """One that is not known; all that are done then."""
    while not parts(workspace).keys() - known:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    return parts(workspace)


def calm(finished: Path, folder: Path) -> dict[str, bytes]:
    """What an undisturbed command leaves; without Ray, for test_run.py shows that it writes the same bytes."""
    workspace = workspace_of(finished, folder)
    run_caption(load_experiment(finished, [*SLOWLY, f"workspace={workspace}", "ray.address=none"]))
    return tables(workspace)


def test_a_command_is_killed_and_in_the_next_one_a_worker(finished: Path, tmp_path: Path) -> None:
    """The second command does what the first had not done, and begins again what its dead worker had in hand.

    The first does without Ray; one on Ray is killed in test_stage_on_ray.py.
    """
    expected, workspace = calm(finished, tmp_path / "calm"), workspace_of(finished, tmp_path / "w")
    process = start(finished, workspace, "ray.address=none")
    wait_for_a_part(workspace, process)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = parts(workspace)
    assert 1 <= len(kept) < 8 and not (workspace / "captions" / "blip2" / "stage.json").exists()
    second = start(finished, workspace)
    seen = kept | wait_for_a_part(workspace, second, kept)
    (worker,) = descendants(second.pid, b"ray::_Actor")
    os.kill(worker, signal.SIGKILL)
    while second.poll() is None:
        seen = seen | parts(workspace)  # they are removed at the end
        time.sleep(0.02)
    assert second.returncode == 0 and tables(workspace) == expected
    assert "died and is replaced" in (workspace / "captions" / "blip2" / "log.txt").read_text()
    assert {name: seen[name] for name in kept} == kept  # what was done was not done again
