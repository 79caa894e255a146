"""The captions that a guide is made from: those of a shard, and whether the set fits the clips."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import UserError
from schemas.stage import required_record
from schemas.tables import CAPTIONS, FAILURES, read_table
from schemas.workspace import Workspace


class ShardCaptions:
    """The captions of a set, read once, for one part of a shard after another."""

    def __init__(self, folder: Path) -> None:
        self._captions = read_table(folder / "captions.parquet", CAPTIONS).select(["key", "text"])
        self._failed = read_table(folder / "failures.parquet", FAILURES)

    def of(self, keys: list[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
        """The captions of those videos by key, and the reasons of those that have none."""
        values = pa.array(keys, pa.string())
        captions, failed = (table.filter(pc.is_in(table["key"], values)) for table in (self._captions, self._failed))
        texts: dict[str, list[str]] = {}
        for row in captions.to_pylist():
            texts.setdefault(row["key"], []).append(row["text"])
        reasons = {row["key"]: f"caption: {row['error']}: {row['message']}" for row in failed.to_pylist()}
        return texts, reasons


def check_captions(workspace: Workspace, source: str, index: pa.Table) -> None:
    """Every clip must have captions, or a recorded reason why it has none. Raises UserError when that is not so."""
    redo = f"tgmae caption {workspace.root} --source {source}"
    folder = workspace.captions(source)
    made_from = [
        required_record(workspace.clips, f"tgmae shard {workspace.root}").inputs["manifest"],
        required_record(folder, redo).inputs["manifest"],
    ]
    if made_from[0] != made_from[1]:
        raise UserError(
            f"{workspace.clips} and {folder} were made from different manifests: run "
            f"`tgmae shard {workspace.root}` and `{redo}`, which rebuild what is not of the present one"
        )
    captioned = read_table(folder / "captions.parquet", CAPTIONS)["key"]
    failed = read_table(folder / "failures.parquet", FAILURES)["key"]
    silent = index.filter(pc.invert(pc.is_in(index["key"], captioned.combine_chunks())))
    unknown = silent.filter(pc.invert(pc.is_in(silent["key"], failed.combine_chunks())))
    if unknown.num_rows:
        names = unknown["video_id"].slice(0, 3).to_pylist()
        raise UserError(
            f"caption set {source!r} does not cover the clips: {unknown.num_rows} of {index.num_rows} videos have "
            f"neither a caption nor a recorded failure ({', '.join(names)}{', ...' if unknown.num_rows > 3 else ''}). "
            f"Delete {folder} and run `{redo}`"
        )
    if silent.num_rows:
        print(
            f"guide: {silent.num_rows} of {index.num_rows} videos have no caption and get no maps; "
            f"{folder / 'failures.parquet'} says why",
            file=sys.stderr,
        )
