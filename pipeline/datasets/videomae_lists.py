"""`videomae`: the lists of VideoMAE's code, {train,val,test}.csv of lines `PATH LABEL`, without a header.

Separated by a comma, a tab or the last space, so a path may hold spaces and commas. A test list of the validation
list's lines, as VideoMAE's are, is ignored.
"""

from __future__ import annotations

import re

from pipeline.datasets.annotations import Source, Videos, read_lines, whole
from pipeline.datasets.entry import MOST_CLASSES, BadRow, Entry, Listing, printable, within
from pipeline.media.video import VideoError
from schemas.errors import UserError

Line = tuple[str, str]


def list_videomae(source: Source) -> Listing:
    listing = Listing()
    found = Videos(source, listing)
    lists = {split: list(read_lines(path)) for split in ("train", "val", "test")
             if (path := source.look(f"{split}.csv")) is not None}  # fmt: skip
    if not lists:
        raise UserError(f"videomae: no train.csv, val.csv or test.csv in {source.notes} (index.annotations)")
    if {text for _, text in lists.get("test", [])} == {text for _, text in lists.get("val", [])}:
        lists.pop("test", None)
    for split, lines in lists.items():
        _refuse_other_lists(split, lines)
        for place, text in lines:
            name = text
            try:
                name, label = _cut(text)
                number = whole(label, "label", most=MOST_CLASSES - 1)
                listing.entries.append(
                    Entry(found.at(within(source.root, name), label=number, split=split), number, split=split)
                )
            except VideoError as error:
                listing.fail(name, error, place)
    found.close()
    return listing


def _cut(text: str) -> tuple[str, str]:
    """The path and the label: what follows the last separator, if it is a number."""
    found = re.fullmatch(r"(.+?)[\t, ]+(-?[0-9]+)", text)
    if found is None:
        raise BadRow(f"{text!r}: expected a path and a whole number, separated by a space, a comma or a tab")
    return found[1], found[2]


def _refuse_other_lists(split: str, lines: list[Line]) -> None:
    """Lists with a number more, of VideoMAE V2 and others, look alike, and their last number need not be a class."""
    if lines and all(re.fullmatch(r"[^\s,]+([\s,]+-?[0-9]+){2}", text) for _, text in lines[:100]):
        raise UserError(
            f"{split}.csv has lines of three fields, such as {printable(lines[0][1])!r}; expected a path and a label. "
            "VideoMAE V2's pretraining list (path, first frame, frames) holds no labels: use format 'files'. "
            "Of a list of path, frames and label, leave out the frames"
        )
