"""stage.json: what made a folder, and whether that is still what is wanted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.atomic import write_json
from schemas.errors import MissingInput, UserError, nearest

SCHEMA_VERSION = 1  # raise it when the meaning of a stage's files changes: everything is then stale
FILE = "stage.json"
PARTS = ".parts"  # in a stage's folder while it is not complete
SPEC = "spec.json"  # in PARTS: what is being built
TO_FIND = "auto"  # a value that only the beginning of the stage gives


class StoredFile(BaseModel):
    """A file of a finished stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class StageRecord(BaseModel):
    """Written last in a stage's folder: without it the stage is not complete."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    config: dict[str, Any]  # what was asked for and determines the output
    inputs: dict[str, str]  # name of an input -> its digest (StageRecord.output of the stage that wrote it)
    output: str  # digest of what was written; downstream stages depend on this, not on our fingerprint
    counts: dict[str, int]  # done, failed, and more by stage
    failed: dict[str, int]  # by error class
    tools: dict[str, str]  # versions of the libraries used; recorded, not part of the fingerprint
    info: dict[str, Any] = {}  # facts for readers, such as the data root
    files: dict[str, StoredFile] = {}  # by path under the folder; empty in records of tgmae 0.1
    seconds: float

    @classmethod
    def begun(cls, known: Mapping[str, Any], *, stage: str = "", info: dict[str, Any] | None = None) -> StageRecord:
        """The record that what is being made would get. Errors: KeyError or ValueError for what says less than that."""
        said = {name: known[name] for name in ("schema_version", "fingerprint", "config", "inputs")}
        return cls(stage=stage, output="", counts={}, failed={}, tools={}, info=info or {}, seconds=0, **said)


@dataclass(frozen=True)
class StageSpec:
    """What a stage would make: known before it runs, and compared with the record of what it made."""

    stage: str
    folder: Path
    config: dict[str, Any]  # what determines the output, and only that
    inputs: dict[str, str]  # as in StageRecord
    info: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)  # options that were left to the device, and what they are here
    cut: dict[str, int] = field(default_factory=dict)  # of the work into shards: changes no output, only what resumes

    @property
    def fingerprint(self) -> str:
        """Library versions are recorded but left out: an upgrade must not rebuild 200 000 videos by itself."""
        content = {
            "stage": self.stage,
            "schema_version": SCHEMA_VERSION,
            "config": self.config,
            "inputs": self.inputs,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]

    def differences(self, record: StageRecord) -> list[str]:
        """Why `record` is not what this spec would make, in words; empty when it is."""
        if record.fingerprint == self.fingerprint:
            return []
        if record.schema_version != SCHEMA_VERSION:
            return [f"made by schema version {record.schema_version}, this is {SCHEMA_VERSION}"]
        # Through JSON, for tuples read back as lists; by dotted key, so that a reason names the one that differs.
        before, now = (_dotted(json.loads(json.dumps(config))) for config in (record.config, self.config))
        reasons = [
            f"{name}: {_short(before.get(name))} -> {_short(now.get(name))}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        names = sorted({*record.inputs, *self.inputs})
        reasons += [f"{name} changed" for name in names if record.inputs.get(name) != self.inputs.get(name)]
        return reasons or ["made by another version of this stage"]


def replacement_folder(folder: Path) -> Path:
    """Where the replacement of a finished folder is built (schemas/replacement.py)."""
    return folder.with_name(f".{folder.name}.building")


def replaced_folder(folder: Path) -> Path:
    """Where the old folder lies for the moment between the two renames."""
    return folder.with_name(f".{folder.name}.replaced")


def present(folder: Path) -> Path:
    """The folder itself or, where a swap was cut off, the one that will be in its place when the swap is ended."""
    old, new = replaced_folder(folder), replacement_folder(folder)
    if folder.is_dir() or not old.is_dir():
        return folder
    return new if (new / FILE).is_file() else old


def write_record(folder: Path, record: StageRecord) -> None:
    write_json(folder / FILE, record.model_dump(mode="json"))


def read_record(folder: Path) -> StageRecord | None:
    """The record of a completed stage, or None where there is none.

    Raises UserError when the file is there but is not a stage record of this version of tgmae.
    """
    path = present(folder) / FILE
    if not path.is_file():
        return None
    try:
        return StageRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path} is not a stage record: {error.errors()[0]['msg']}; delete the folder to rebuild"
        ) from error


def damage(folder: Path, record: StageRecord) -> list[str]:
    """What a look at the sizes finds wrong with a finished stage: files that are missing or of another size."""
    found, place = [], present(folder)
    for name, file in record.files.items():
        try:
            size = (place / name).stat().st_size
        except OSError:
            found.append(f"{name} is missing")
        else:
            if size != file.bytes:
                found.append(f"{name} has {size} bytes, not {file.bytes}")
    return found


def current_record(spec: StageSpec) -> StageRecord | None:
    """The record of exactly what `spec` describes, all of its files there; else None."""
    record = read_record(spec.folder)
    if record is None or record.fingerprint != spec.fingerprint or damage(spec.folder, record):
        return None
    return record


def stored_files(folder: Path, digests: Mapping[str, str]) -> dict[str, StoredFile]:
    """Names and sha256 of files that are written, with their sizes."""
    return {name: StoredFile(bytes=(folder / name).stat().st_size, sha256=digest) for name, digest in digests.items()}


def begun_record(folder: Path) -> StageRecord | None:
    """What a stage of the pipeline is building in a folder, as far as it is known: the record it would get."""
    try:
        found = json.loads((folder / PARTS / SPEC).read_bytes())
        return StageRecord.begun(found, info={**found.get("info", {}), "cut": found.get("cut", {})})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def required_record(folder: Path, command: str) -> StageRecord:
    """The record of a stage that must be complete; `command` is what makes it so."""
    record = read_record(folder)
    if record is None:
        state = "is incomplete" if folder.is_dir() else "is missing"
        near = [] if folder.is_dir() else nearest(
            folder.name, [path.parent.name for path in folder.parent.glob(f"[!.]*/{FILE}")], cutoff=0.7)  # fmt: skip
        meant = f" (there is {near[0]!r})" if near else ""
        raise MissingInput(f"{folder} {state}{meant}: run `{command}` first")
    return record


def _dotted(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else text[:57] + "..."
