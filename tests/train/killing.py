"""A training process that is killed until it is done."""

import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL

import numpy as np

from schemas.stage import read_record
from tests.train.forking import forked, kill


def kill_then_finish(arguments: Sequence[str], folder: Path, *, kills: int) -> None:
    """Starts `python -m train STAGE CONFIG.toml` again and again, kills it at random moments of its run in `folder`,
    then lets it finish.

    Each time it has first logged an update more than the time before, so that it gets on.
    """
    rng, killed = np.random.default_rng(), 0
    metrics, said = folder / "metrics.jsonl", Path(arguments[-1]).with_suffix(".said")
    while killed < kills and read_record(folder) is None:
        before = metrics.read_bytes() if metrics.exists() else b""
        process = forked(arguments, said)
        while process.is_alive() and (not metrics.exists() or metrics.read_bytes() in (b"", before)):
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.4)))
        if process.is_alive():
            kill(process)
            killed += 1
        process.join()
        assert process.exitcode in (0, -SIGKILL), said.read_text()
    assert killed, "the run was over before it could be killed"
    finish(arguments)


def finish(arguments: Sequence[str]) -> None:
    """The same without being killed: in a process of the same kind, for the last bits of a loss may depend on what else
    a process has done."""
    said = Path(arguments[-1]).with_suffix(".said")
    process = forked(arguments, said)
    process.join()
    assert process.exitcode == 0, said.read_text()
