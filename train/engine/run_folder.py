"""What a run's folder holds, and so where training begins and what moves first: decided here, for a plan and for a run.

A run whose place another config asks for is kept next to it, under its fingerprint: NAME.0123456789abcdef. Asked for
again, it comes back. Nothing is deleted. Light to import: no torch.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from schemas.errors import UserError
from schemas.lock import only_writer
from schemas.stage import StageRecord, StageSpec, damage, read_record
from train.engine import checkpoint_files

UNFINISHED = "unfinished"  # in place of the fingerprint of a run that was stopped before its first checkpoint
KEPT = re.compile(rf"\.([0-9a-f]{{16,}}|{UNFINISHED})(-[0-9]+)?$")
Found = tuple[Path, dict[str, Any]]  # a checkpoint and its state.json
Part = Callable[[StageRecord], StageRecord]


class Move(NamedTuple):
    source: Path
    target: Path

    def __str__(self) -> str:
        return f"{self.source} {{}} moved to {self.target}"


class Held(NamedTuple):
    """What there is for a run that is asked for."""

    before: StageRecord | None  # of the run in its folder, finished or begun; None where there is none
    checkpoint: Found | None  # of the run asked for, to resume from
    aside: Move | None  # of another run that lies in its place
    back: Move | None  # of this very run, which was set aside

    @property
    def moves(self) -> list[Move]:
        return [move for move in (self.aside, self.back) if move is not None]


def _whole(record: StageRecord) -> StageRecord:
    return record


def look(spec: StageSpec, part: Part = _whole) -> Held:
    """What the folder of `spec`, and those next to it, hold. `part` makes a record of it comparable with `spec`.

    Errors: UserError for a stage.json or a checkpoint that this version cannot read.
    """
    before, found = _held_by(spec.folder, spec, part)
    if before is not None and before.fingerprint == spec.fingerprint:
        return Held(before, found, None, None)
    kept = kept_run(spec, part)
    aside = None
    if before is not None or (kept is not None and spec.folder.exists()):
        aside = Move(spec.folder, free_name(spec.folder, UNFINISHED if before is None else before.fingerprint))
    if kept is None:
        return Held(before, None, aside, None)
    return Held(before, _held_by(kept, spec, part)[1], aside, Move(kept, spec.folder))


def displaced(folder: Path, part: Part = _whole) -> Move | None:
    """Where the run in a folder goes when another one takes its place; None where there is no run."""
    record = read_record(folder)
    if record is not None:
        return Move(folder, free_name(folder, part(record).fingerprint))
    found = checkpoint_files.newest(folder)
    return None if found is None else Move(folder, free_name(folder, str(found[1]["spec"]["fingerprint"])))


def kept_run(spec: StageSpec, part: Part = _whole) -> Path | None:
    """The folder of this run where it was set aside: the finished one, else one that can be resumed."""
    finished, begun = [], []
    for folder in sorted(spec.folder.parent.glob(f"{spec.folder.name}.{spec.fingerprint}*")):
        if not KEPT.search(folder.name) or folder.is_symlink():
            continue
        try:
            record, found = _held_by(folder, spec, part)
            whole = read_record(folder)
        except UserError:  # what is damaged is not used
            continue
        if record is None or record.fingerprint != spec.fingerprint:
            continue
        if whole is not None and not damage(folder, whole):
            finished.append(folder)
        elif found is not None:
            begun.append(folder)
    return next(iter([*finished, *begun]), None)


def _held_by(folder: Path, spec: StageSpec, part: Part) -> tuple[StageRecord | None, Found | None]:
    """The run in a folder and, where it is that of `spec`, its newest whole checkpoint."""
    record = read_record(folder)
    if record is not None:
        record = part(record)
        same = record.fingerprint == spec.fingerprint
        return record, checkpoint_files.newest(folder) if same else None
    found = checkpoint_files.newest(folder)
    if found is None:
        return None, None
    begun = StageRecord.begun(found[1]["spec"], stage=spec.stage)
    return begun, found if begun.fingerprint == spec.fingerprint else None


def free_name(folder: Path, fingerprint: str) -> Path:
    """Where a run is set aside: what lies there already stays, too."""
    names = (f"{folder.name}.{fingerprint}{number}" for number in ("", *(f"-{n}" for n in range(2, 10_000))))
    return next(path for name in names if not (path := folder.with_name(name)).exists())


def set_aside(move: Move, stage: str) -> None:
    """To be called by the only writer of the run that moves."""
    move.source.rename(move.target)
    print(f"{stage}: the run that was {move.source} is kept as {move.target}", file=sys.stderr)


def bring_back(move: Move, stage: str) -> None:
    """To be called by the only writer of the place that the run moves to. Errors: UserError when somebody writes it."""
    with only_writer(move.source):
        move.source.rename(move.target)
    print(f"{stage}: {move.source} is this run: it is {move.target} again", file=sys.stderr)
