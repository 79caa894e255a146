"""Captions in a table: CSV with a header, JSON lines, or Parquet; a row a caption, or a list of texts a row."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.captioners import TimedText
from schemas.config import CaptionFile
from schemas.errors import UserError
from schemas.foreign_text import parsed_json

Listed = dict[str, list[TimedText]]  # what is texts, by the name that its source gives the video


def read_listed(path: Path, options: CaptionFile) -> tuple[Listed, list[str]]:
    """The captions of a table by name, and what could not be used of it, with its place.

    Raises UserError when the file is not such a table or has not the columns that `options` name.
    """
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UserError(f"caption.file.path: {path} is neither {', '.join(readers)} nor a folder of .vtt and .srt")
    if not path.is_file():
        raise UserError(f"caption.file.path: {path} is not a file")
    listed: Listed = {}
    problems: list[str] = []
    seen: set[str] = set()
    try:
        for place, row in readers[path.suffix](path):
            seen |= row.keys()
            try:
                name, texts = _entry(row, options)
            except ValueError as error:
                problems.append(f"{place}: {error}")
            else:
                listed.setdefault(name, []).extend(texts)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    columns = (options.video_column, options.text_column, options.time_column)
    lacking = [name for name in columns if name and name not in seen]
    if lacking:
        raise UserError(
            f"{path} has no column {' and no column '.join(map(repr, lacking))}; it has {', '.join(sorted(seen))[:200]}"
            " (caption.file.video_column, text_column, time_column)"
        )
    return listed, problems


def _entry(row: dict[str, Any], options: CaptionFile) -> tuple[str, list[TimedText]]:
    name, texts = row.get(options.video_column), row.get(options.text_column)
    if not isinstance(name, (str, int)) or not str(name).strip():
        raise ValueError("it names no video")
    texts = texts if isinstance(texts, list) else [texts]
    texts = [text for text in texts if isinstance(text, str) and text.strip()]
    if not texts:
        raise ValueError(f"no text for {name}")
    time = None
    if options.time_column and row.get(options.time_column) not in (None, ""):
        time = float(row[options.time_column])
        if not math.isfinite(time) or time < 0:
            raise ValueError(f"{time} is not a time")
    return str(name).strip().removeprefix("./"), [TimedText(text, time=time) for text in texts]


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        for row in reader:
            yield f"line {reader.line_num}", row


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = parsed_json(line)
            except ValueError:
                row = None
            yield f"line {number}", row if isinstance(row, dict) else {}


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    with pq.ParquetFile(path.absolute()) as file:  # "exp:1/..." would be taken for a URL
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
