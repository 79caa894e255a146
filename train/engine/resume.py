"""What a run's folder holds: this run, to resume from, or another, which is kept."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.atomic import write_bytes
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import FILE as RECORD
from schemas.stage import StageRecord, StageSpec
from schemas.toml import dump
from train.engine import checkpoint
from train.engine.metrics import FILE as METRICS

CONFIG = "config.toml"  # of a run: the whole experiment
Found = tuple[Path, dict[str, Any]]  # a checkpoint and its state.json


def state(spec: StageSpec, record: StageRecord | None, *, rebuild: bool) -> tuple[StageRecord | None, Found | None]:
    """What the folder holds, this run or another, and the checkpoint to resume from; None to begin at the beginning.

    Errors: UserError when it holds another run, unless `rebuild`.
    """
    found = checkpoint.newest(spec.folder)
    before = record
    if found is not None:
        known = {name: found[1]["spec"][name] for name in ("schema_version", "fingerprint", "config", "inputs")}
        before = StageRecord(stage=spec.stage, output="", counts={}, failed={}, tools={}, seconds=0, **known)
    if before is None or before.fingerprint == spec.fingerprint:
        return before, found
    if rebuild:
        return before, None
    raise UserError(
        f"{spec.folder} holds a run of another config or other data: {'; '.join(spec.differences(before))}. "
        "Give this one another name (--set name=NAME), or move that one aside (--rebuild)"
    )


def move_aside(spec: StageSpec, fingerprint: str) -> None:
    """Renames the folder of another run, for it took long to make: FOLDER.<its fingerprint>."""
    aside = spec.folder.with_name(f"{spec.folder.name}.{fingerprint}")
    if aside.exists():
        shutil.rmtree(aside)  # an earlier copy of the same run
    spec.folder.rename(aside)
    print(f"{spec.stage}: the run of another config under this name is kept as {aside}", file=sys.stderr)


def prepare(experiment: Experiment, spec: StageSpec, outputs: Sequence[str], *, fresh: bool) -> None:
    """The run's folder, with nothing in it of a run that is not continued; outputs: names of its results."""
    spec.folder.mkdir(parents=True, exist_ok=True)
    # stage.json first: should we be stopped between, the rest counts as incomplete, never as whole.
    (spec.folder / RECORD).unlink(missing_ok=True)
    if fresh:
        for name in (*outputs, METRICS):
            (spec.folder / name).unlink(missing_ok=True)
        for name in (checkpoint.FOLDER, "tensorboard"):
            if (spec.folder / name).is_dir():
                shutil.rmtree(spec.folder / name)
    checkpoint.clean(spec.folder)
    write_bytes(spec.folder / CONFIG, dump(experiment).encode())
