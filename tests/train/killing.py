"""A training process that is killed until it is done."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from schemas.stage import read_record

ROOT = Path(__file__).parents[2]


def kill_then_finish(command: Sequence[str], folder: Path, *, kills: int) -> None:
    """Starts `command` again and again, kills it at random moments of its run in `folder`, then lets it finish.

    Each time it has first logged an update more than the time before, so that it gets on.
    """
    rng, killed = np.random.default_rng(), 0
    metrics = folder / "metrics.jsonl"
    while killed < kills and read_record(folder) is None:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
        before = metrics.read_bytes() if metrics.exists() else b""
        while process.poll() is None and (not metrics.exists() or metrics.read_bytes() in (b"", before)):
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 1.5)))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed, "the run was over before it could be killed"
    subprocess.run(command, cwd=ROOT, check=True)
