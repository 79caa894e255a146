"""`csv`: a list with a header, `path,label[,start,end,text,split]`, comma-separated, UTF-8.

Paths are relative to the data root; other columns are ignored. Labels are class indices where most of them are
whole numbers: a row with another is then a failure, so that it renumbers nothing. Else they are names, numbered in
alphabetical order. An empty cell is "not said", and so is a label `nan`.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.annotations import Source
from pipeline.datasets.entry import MOST_CLASSES, BadRow, Entry, Listing, check_path, printable, within
from pipeline.datasets.folder import SPLITS
from pipeline.media.video import VideoError
from schemas.errors import UserError

REQUIRED = ("path", "label")


def list_csv(source: Source) -> Listing:
    """Raises UserError when the list is not such a csv; a bad row becomes a failure that names its line."""
    list_path = source.list
    if list_path is None:
        raise UserError("format 'csv' needs a list (index.list)")
    listing = Listing()
    rows = list(_rows(list_path))
    if not rows:
        raise UserError(f"{list_path} lists no videos: it has a header and nothing else")
    given = [label for _, row in rows if (label := _label(row)) and printable(label) == label]
    indices = 2 * sum(label.isdecimal() for label in given) > len(given)
    known = {label for label in given if label.isdecimal() or not indices}
    large = [label for label in known if len(label) > 9 or int(label) >= MOST_CLASSES] if indices else []
    if large:
        raise UserError(f"{list_path}: label {max(large, key=len)[:40]} is too large for a class index")
    labels = {name: int(name) if indices else number for number, name in enumerate(sorted(known))}
    if not indices:
        listing.classes = sorted(known)  # also those whose videos turn out to be unusable
    for line, row in rows:
        try:
            listing.entries.append(_entry(source, row, labels, named=not indices))
        except VideoError as error:
            place = f"{list_path.name} line {line}"
            listing.fail(row.get("path") or place, error, place)
    return listing


def _rows(list_path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of every row that is not blank."""
    try:
        # A list may name files in bytes that are no UTF-8: such a row fails alone.
        with open(list_path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in REQUIRED if name not in header]
            if missing:
                found = printable(", ".join(header))[:200] or "nothing"
                raise UserError(
                    f"{list_path}: no column {' and no column '.join(map(repr, missing))}. Its first line is {found}; "
                    "expected a header such as path,label or path,label,start,end,text,split"
                )
            if len(set(header)) < len(header):
                raise UserError(f"{list_path}: a column is named twice in its header: {printable(', '.join(header))}")
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
                if len(cells) != len(header):
                    row["fault"] = f"{len(cells)} cells, the header has {len(header)}"
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{list_path} line {reader.line_num}: not csv: {error}") from error
    except OSError as error:
        raise UserError(f"{list_path} cannot be read: {error.strerror}") from error


def _label(row: dict[str, str]) -> str:
    """The cell as it is meant: spreadsheets and data frames write 7 as 7.0, and nothing as nan."""
    cell = row.get("label", "")
    if cell.casefold() == "nan":
        return ""
    number = re.fullmatch(r"([0-9]+)(\.0*)?", cell)
    return str(int(number[1])) if number and len(cell) < 80 else cell


def _entry(source: Source, row: dict[str, str], labels: dict[str, int], *, named: bool) -> Entry:
    if "fault" in row:
        raise BadRow(row["fault"])
    if not row["path"]:
        raise BadRow("the path is empty")
    path = within(source.root, row["path"])
    start, end = (_seconds(row.get(column, ""), column) for column in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise BadRow(f"end {end:g} s is not after start {start or 0:g} s")
    split = row.get("split", "")
    if split and split.casefold() not in SPLITS:
        raise BadRow(f"split {printable(split)!r} is none of {', '.join(SPLITS)}")
    name = _label(row)
    label = labels.get(name)
    if name and label is None and not named:
        raise BadRow(f"label {printable(name)!r} is not a class index, as the other labels are")
    check_path(source.root, path, label, SPLITS.get(split.casefold(), ""), follow=source.follow_links)
    return Entry(
        path=path,
        label=label,
        label_text=name if name and named else None,
        split=SPLITS.get(split.casefold(), ""),
        start=start or None,  # from 0 is from the beginning
        end=end,
        text=row.get("text") or None,
    )


def _seconds(cell: str, column: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        raise BadRow(f"{column} {printable(cell)!r} is not a number of seconds") from None
    if not math.isfinite(value) or value < 0:
        raise BadRow(f"{column} {cell} is not a time")
    return value
