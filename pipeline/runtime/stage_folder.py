"""The folder that a stage of the pipeline is built in: one writer, what is done so far, and the swap at the end."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.runtime.failure_budget import exceeds_budget
from pipeline.runtime.units import Unit
from schemas import log
from schemas.atomic import TEMPORARY, write_json
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.foreign_text import shown
from schemas.lock import only_writer
from schemas.replacement import build_folder, settle, swap
from schemas.stage import (
    PARTS,
    SCHEMA_VERSION,
    SPEC,
    StageRecord,
    StageSpec,
    begun_record,
    current_record,
    damage,
    read_record,
)


@contextmanager
def building(spec: StageSpec, units: Sequence[Unit] = ()) -> Iterator[Path | None]:
    """Yields the folder to build in, with PARTS in it, or None when the stage is current.

    A finished stage stays as it is: its replacement is built next to it and swapped in when the block ends well.
    Raises UserError when another process writes the stage.
    """
    with only_writer(spec.folder):
        settle(spec.folder)
        if current_record(spec) is not None:
            yield None
            return
        folder = _prepared(spec, units)
        log.keep_in(folder)
        yield folder
        _remove_leftovers(folder)
        shutil.rmtree(folder / PARTS)
        if folder != spec.folder:
            swap(spec.folder)


def begun_in(spec: StageSpec) -> tuple[StageRecord | None, list[str]]:
    """What is being built where `spec` would be, and why it cannot be resumed; no reasons: it can.

    Raises UserError when files of somebody else are in the way.
    """
    folder = build_folder(spec.folder)
    begun = begun_record(folder)
    if begun is None:
        if folder == spec.folder and folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} holds files that tgmae did not write: move them, or choose another workspace")
        return None, []
    cut = begun.info["cut"]
    others = [f"{name}: {cut.get(name)} -> {value}" for name, value in spec.cut.items() if cut.get(name) != value]
    return begun, spec.differences(begun) or others


def check_size(spec: StageSpec, videos: int, experiment: Experiment) -> None:
    """Raises UserError when `videos` are far fewer than the finished stage that would be replaced has."""
    record = read_record(spec.folder)
    before = 0 if record is None else record.counts.get("done", 0)
    if not experiment.allow_fewer and exceeds_budget(before - videos, before, experiment.max_failures):
        raise UserError(
            f"{spec.stage}: {spec.folder} has {before} videos, its replacement would have {videos}: more is lost than "
            f"max_failures = {experiment.max_failures!r} allows. Is all of the data there? What is finished stays; "
            "--set allow_fewer=true replaces it all the same"
        )


def _prepared(spec: StageSpec, units: Sequence[Unit]) -> Path:
    """A folder that holds nothing but parts of this very spec, cut in these units."""
    folder = build_folder(spec.folder)
    record = read_record(spec.folder)
    if record is not None:
        reasons = spec.differences(record) or damage(spec.folder, record)
        print(f"{spec.stage}: rebuilt next to {spec.folder}, because {shown('; '.join(reasons[:8]))}", file=sys.stderr)
    mark = folder / PARTS / SPEC
    keys = json.dumps([[unit.shard, *(row["key"] for row in unit.rows)] for unit in units])
    wanted = {"schema_version": SCHEMA_VERSION, "fingerprint": spec.fingerprint, "config": spec.config,
              "inputs": spec.inputs, "info": spec.info, "cut": spec.cut,
              "units": hashlib.sha256(keys.encode()).hexdigest()}  # fmt: skip
    begun, reasons = begun_in(spec)
    if begun is not None and (reasons or json.loads(mark.read_bytes()).get("units") != wanted["units"]):
        print(f"{spec.stage}: starts over, because the config changed while it was incomplete"
              f"{': ' if reasons else ''}{'; '.join(reasons)}", file=sys.stderr)  # fmt: skip
        shutil.rmtree(folder)
    elif begun is None and folder != spec.folder and folder.is_dir():
        shutil.rmtree(folder)  # a replacement whose own mark is lost
    _remove_leftovers(folder)
    write_json(mark, wanted)
    return folder


def _remove_leftovers(folder: Path) -> None:
    """Temporary files of workers that died."""
    for pattern in (f".*{TEMPORARY}", f"{PARTS}/*/.*{TEMPORARY}"):
        for leftover in folder.glob(pattern):
            leftover.unlink()
