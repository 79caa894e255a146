"""`ucf101`: UCF101 by classInd.txt and trainlist0N.txt, testlist0N.txt of the official split N (index.split)."""

from __future__ import annotations

from pathlib import PurePosixPath

from pipeline.datasets.annotations import Source, Videos, read_lines, whole
from pipeline.datasets.entry import BadRow, Entry, Listing
from pipeline.media.video import VideoError
from schemas.errors import UserError


def list_ucf101(source: Source) -> Listing:
    listing = Listing()
    found = Videos(source, listing)
    path = source.find("classInd.txt", what="ucf101")
    numbers: dict[str, int] = {}
    for place, line in read_lines(path):
        number, _, name = line.partition(" ")
        try:
            numbers[name.strip()] = whole(number, "class", least=1) - 1
        except BadRow as error:
            raise UserError(f"{path.parent}/{place}: {error}; expected such as '1 ApplyEyeMakeup'") from error
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise UserError(f"{path}: classes are not numbered 1 to {len(numbers)}")
    listing.classes = sorted(numbers, key=numbers.__getitem__)
    for split in ("train", "test"):
        lines = source.find(f"{split}list0{source.split}.txt", what="ucf101")
        for place, line in read_lines(lines):
            name, _, label = line.partition(" ")
            try:
                listing.entries.append(_entry(found, PurePosixPath(name), label.strip(), numbers, split))
            except VideoError as error:
                listing.fail(name, error, place)
    found.close()
    return listing


def _entry(found: Videos, name: PurePosixPath, label: str, numbers: dict[str, int], split: str) -> Entry:
    if name.parent.name not in numbers:
        raise BadRow(f"the folder of {name} is no class of classInd.txt")
    number = numbers[name.parent.name]
    if label and whole(label, "class", least=1) - 1 != number:
        raise BadRow(f"the class {label} is not that of the folder {name.parent.name}, {number + 1}")
    path = found.take(name.stem, label=number, split=split, folder=name.parent.name)
    return Entry(path, number, name.parent.name, split)
