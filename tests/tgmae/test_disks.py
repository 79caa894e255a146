"""A disk that is full, or a file that may not grow: a message and what to do, in every stage, and nothing is lost."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.toml import load_experiment
from tests.tgmae.test_run import contents, copied

pytestmark = pytest.mark.slow
LIMIT = 4096  # bytes that a file may have: what the kernel answers then is what a full disk answers
STAGES = {  # folder that is removed -> the command that builds it
    "manifest": ["index", "{data}", "--out", "{w}"],
    "captions/blip2": ["caption", "{w}"],
    "clips": ["shard", "{w}"],
    "guides/text-blip2": ["guide", "{w}"],
    "runs/text": ["pretrain", "{w}"],
}


@pytest.mark.parametrize("folder", STAGES)
def test_a_full_disk_is_a_message_in_every_stage(finished: Path, tmp_path: Path, folder: str) -> None:
    config = copied(finished, tmp_path)
    workspace = tmp_path / "workspace"
    shutil.rmtree(workspace / folder)
    others = {name: contents(workspace / name) for name in STAGES if not name.startswith(folder)}
    data = load_experiment(config).index.data
    words = [word.format(w=workspace, data=data) for word in STAGES[folder]]
    command = [sys.executable, "-m", "tgmae", *words, "--config", str(config)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT)),
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert "File too large" in done.stderr and "make room" in done.stderr
    assert {name: contents(workspace / name) for name in others} == others
    subprocess.run(command, check=True, capture_output=True, timeout=200)
