"""Everything that users and other programs hold on to, as one readable text: `python -m tests.surface.listing`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import typer
from pydantic import BaseModel

import schemas.tables
from schemas.config import Experiment
from schemas.shards import ClipMeta, GuideMeta
from schemas.stage import StageRecord
from schemas.workspace import Workspace, shard_name
from tgmae.cli import app

FILE = Path(__file__).with_name("surface.txt")
MEMBERS = {
    "clips": ("json", "mp4"),
    "guides": ("json", "scores.npy", "text.npy"),
    "features": ("json", "codes.bin"),
}


def surface() -> str:
    parts = {
        "config keys": config_keys(Experiment),
        "commands": commands(typer.main.get_command(app)),
        "members of shards": (f"{folder}: KEY.{name}" for folder, names in MEMBERS.items() for name in names),
        "json of a clip": fields(ClipMeta),
        "json of a guide": fields(GuideMeta),
        "stage.json": fields(StageRecord),
        "tables": tables(),
        "workspace": folders(),
    }
    return "\n".join(f"# {title}\n" + "".join(f"{line}\n" for line in lines) for title, lines in parts.items())


def config_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from config_keys(field.annotation, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else json.dumps(field.default)
            yield f"{prefix}{name} = {default}"


def commands(command: Any, name: str = "tgmae") -> Iterator[str]:
    for each in command.params:
        shown = "/".join(each.opts) if each.param_type_name == "option" else each.name.upper()
        yield f"{name} {shown}"
    for key, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {key}")


def fields(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{name}: {'required' if field.is_required() else 'optional'}"


def tables() -> Iterator[str]:
    for name, schema in sorted(vars(schemas.tables).items()):
        if isinstance(schema, pa.Schema):
            for column in schema:
                yield f"{name.lower()}.{column.name}: {column.type}{' or null' if column.nullable else ''}"


def folders() -> Iterator[str]:
    workspace = Workspace(Path("W"))
    for folder in (workspace.manifest, workspace.captions("SET"), workspace.clips, workspace.features("ENCODER"),
                   workspace.guide("GUIDE"), workspace.run("NAME")):  # fmt: skip
        yield folder.as_posix()
    yield f"W/clips/{shard_name(0)}"


def main() -> None:
    FILE.write_text(surface(), encoding="utf-8")
    print(f"wrote {FILE}", file=sys.stderr)


if __name__ == "__main__":
    main()
