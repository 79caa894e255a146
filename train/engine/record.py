"""The stage records of training: versions of the libraries, and the record itself."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from schemas.atomic import sha256_file
from schemas.stage import StageRecord, StageSpec, write_record

TOOLS = ("decord", "numpy", "timm", "torch", "webdataset")


def tools() -> dict[str, str]:
    """Versions of what computes the numbers."""
    return {"python": ".".join(map(str, sys.version_info[:3])), **{name: version(name) for name in TOOLS}}


def finish(
    spec: StageSpec, output: Path, *, counts: dict[str, int], info: dict[str, Any], seconds: float
) -> StageRecord:
    """Writes stage.json, last of all; `output` is the file whose digest stands for what the stage made."""
    record = StageRecord(
        stage=spec.stage,
        fingerprint=spec.fingerprint,
        config=spec.config,
        inputs=spec.inputs,
        output=sha256_file(output),
        counts=counts,
        failed={},
        tools=tools(),
        info={**spec.info, **info},
        seconds=round(seconds, 3),
    )
    write_record(spec.folder, record)
    return record
