"""`videomae`: the lists of VideoMAE's code, {train,val,test}.csv of lines `PATH LABEL`, without a header.

Separated by a comma, a tab or the last space, so a path may hold spaces. A test list equal to the validation list,
as VideoMAE's are, is passed over.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.datasets.entry import BadRow, Entry, Listing, OutsideRoot
from pipeline.datasets.listed import Source, Videos, read_lines, whole
from pipeline.video import VideoError
from schemas.errors import UserError

Line = tuple[str, str]


def list_videomae(source: Source) -> Listing:
    listing = Listing()
    found = Videos(source, listing)
    lists = {split: list(read_lines(path)) for split in ("train", "val", "test")
             if (path := source.look(f"{split}.csv")) is not None}  # fmt: skip
    if not lists:
        raise UserError(f"videomae: no train.csv, val.csv or test.csv in {source.notes} (index.annotations)")
    if [text for _, text in lists.get("test", [])] == [text for _, text in lists.get("val", [])]:
        lists.pop("test", None)
    for split, lines in lists.items():
        _refuse_other_lists(split, lines)
        for place, text in lines:
            name = text
            try:
                name, label = _cut(text)
                listing.entries.append(Entry(found.at(_inside(source.root, name)), whole(label, "label"), split=split))
            except VideoError as error:
                listing.fail(name, type(error)(f"{place}: {error}"))
    found.close()
    return listing


def _cut(text: str) -> tuple[str, str]:
    for separator in ("\t", ",", " "):
        path, found, label = text.rpartition(separator)
        if found:
            return path.strip(), label.strip()
    raise BadRow("expected a path and a label, separated by a space, a comma or a tab")


def _inside(root: Path, name: str) -> str:
    path = Path(os.path.relpath(os.path.normpath(os.path.join(root, name)), root)).as_posix()
    if path.split("/")[0] == "..":
        raise OutsideRoot(f"leads out of the data folder {root}")
    return path


def _refuse_other_lists(split: str, lines: list[Line]) -> None:
    """VideoMAE V2's lists for pretraining, `PATH START FRAMES`, look alike, and their last number is no class."""
    words = [text.split() for _, text in lines[:100]]
    if words and all(len(each) == 3 and each[1].lstrip("-").isdigit() and each[2].lstrip("-").isdigit()
                     for each in words):  # fmt: skip
        raise UserError(
            f"{split}.csv has lines of three fields, such as {lines[0][1]!r}: that is VideoMAE V2's pretraining list "
            "(path, first frame, frames), which holds no labels. Use format 'files', or the lists for fine-tuning"
        )
