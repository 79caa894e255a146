"""Arrow schemas of the tables that stages exchange, and how they are written: the same rows, the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.atomic import replacing
from schemas.errors import UserError

MANIFEST = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # 16 hex digits of video_id: the WebDataset key
        pa.field("video_id", pa.string(), nullable=False),  # path under the data root, "#start-end" for a segment
        pa.field("path", pa.string(), nullable=False),  # posix, relative to the data root
        pa.field("start", pa.float64()),  # seconds; null: from the beginning
        pa.field("end", pa.float64()),  # seconds; null: to the end
        pa.field("label", pa.int32()),  # class index, 0-based; null: unlabelled
        pa.field("label_text", pa.string()),
        pa.field("split", pa.string(), nullable=False),  # "train", "val", "test" or "" where the list names none
        pa.field("text", pa.string()),  # a human description of this video, where the list has one
        pa.field("frames", pa.int32(), nullable=False),  # of the whole file, as the demuxer counts them
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # as displayed, after rotation
        pa.field("height", pa.int32(), nullable=False),
        pa.field("rotation", pa.int16(), nullable=False),  # degrees counterclockwise to apply: 0, 90, 180, 270
        pa.field("codec", pa.string(), nullable=False),
        pa.field("duration", pa.float64(), nullable=False),  # seconds, of the whole file
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)

CAPTIONS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("caption", pa.int16(), nullable=False),  # 0, 1, ... within the video
        pa.field("text", pa.string(), nullable=False),  # never empty: a video without text is a failure
        pa.field("frame", pa.int32()),  # the keyframe's index in the source (or segment); null for labels
        pa.field("time", pa.float64()),  # its seconds from the start of the file; null for labels
    ]
)

CHANGES = pa.schema(  # of captions that were mended (caption.clean)
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("caption", pa.int16()),  # as in CAPTIONS; null: nothing was left of it
        pa.field("steps", pa.string(), nullable=False),  # what was done, in order, joined by "+"
        pa.field("before", pa.string(), nullable=False),
        pa.field("after", pa.string(), nullable=False),
    ]
)

FAILURES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),  # class of the error
        pa.field("message", pa.string(), nullable=False),
    ]
)

SKIPPED = ("NoLabel",)
"""Errors in FAILURES that are none: what a source of captions from labels leaves out, with its reason."""

LOST = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),  # as the list names it, where there is no file
        pa.field("label", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)

CLIP_INDEX = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the sample's first tar header, bytes
        pa.field("length", pa.int64(), nullable=False),  # up to the end of its last member's padding, bytes
        pa.field("frames", pa.int32(), nullable=False),  # decoded and written, so exact
        pa.field("label", pa.int32()),
        pa.field("label_text", pa.string()),
        pa.field("split", pa.string(), nullable=False),
    ]
)

GUIDE_INDEX = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        # Score maps in the sample, or texts where the guide has only those; 0: the guide has nothing for the video.
        pa.field("maps", pa.int32(), nullable=False),
    ]
)


def video_key(video_id: str) -> str:
    """The WebDataset key of a video: dot-free (webdataset cuts keys at dots) and as good as random in order."""
    return hashlib.blake2b(video_id.encode(), digest_size=8).hexdigest()


def failure(video_id: str, stage: str, error: BaseException) -> dict[str, str]:
    """One row of FAILURES."""
    message = " ".join(str(error).split()) or type(error).__name__
    return {
        "key": video_key(video_id),
        "video_id": video_id,
        "stage": stage,
        "error": type(error).__name__,
        "message": message[:2000],
    }


def table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


def write_table(path: Path, rows: Sequence[dict[str, Any]] | pa.Table, schema: pa.Schema) -> None:
    """Writes Parquet atomically; the bytes depend on the rows and on pyarrow's version, on nothing else."""
    content = rows if isinstance(rows, pa.Table) else table(rows, schema)
    content = content.cast(schema)
    for field in schema:
        if not field.nullable and content.column(field.name).null_count:
            raise ValueError(f"{path.name}: column {field.name!r} has nulls")
    with replacing(path) as partial:
        pq.write_table(content, partial.absolute(), compression="zstd")


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Reads a table of ours and checks that it is one.

    Raises UserError when the file is missing, unreadable or has other columns.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: run the stage that writes it (tgmae status shows which)")
    try:
        # pq.read_table would import pandas: a third of a second of every command that reads a table.
        with pq.ParquetFile(path.absolute()) as file:  # "exp:1/..." would be taken for a URL
            found = file.read()
        names = found.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from error
    if len(set(names)) < len(names):
        raise UserError(f"{path} has two columns of one name: it was not written by this stage")
    missing = [name for name in schema.names if name not in names]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}: it was not written by this stage")
    try:
        return found.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path} has columns of other types than expected: {error}") from error
