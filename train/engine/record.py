"""The stage records of training: versions of the libraries, and the record itself."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from schemas.atomic import sha256_file
from schemas.stage import StageRecord, StageSpec, stored_files, write_record

TOOLS = ("av", "decord", "numpy", "timm", "torch", "webdataset")


def tools() -> dict[str, str]:
    """Versions of what computes the numbers, where it is installed."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in TOOLS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def finish(
    spec: StageSpec, output: Path, *, files: Sequence[str], counts: dict[str, int], info: dict[str, Any], seconds: float
) -> StageRecord:
    """Writes stage.json, last of all, next to `output`, the file whose digest stands for what the stage made.

    files: names of all that was made; those that are missing were not asked for.
    """
    folder = output.parent
    digests = {name: sha256_file(folder / name) for name in files if (folder / name).is_file()}
    record = StageRecord(
        stage=spec.stage,
        fingerprint=spec.fingerprint,
        config=spec.config,
        inputs=spec.inputs,
        output=digests[output.name],
        counts=counts,
        failed={},
        tools=tools(),
        info={**spec.info, **info},
        files=stored_files(folder, digests),
        seconds=round(seconds, 3),
    )
    write_record(folder, record)
    return record
