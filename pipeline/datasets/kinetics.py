"""`kinetics`: Kinetics-400, 600 and 700 by their csv files: label,youtube_id,time_start,time_end,split.

The files are {train,val,test}.csv, with or without a prefix such as kinetics_400_. Videos are YOUTUBEID_SSSSSS_EEEEEE
or YOUTUBEID, in any folder. Classes are the labels of the training list in alphabetical order.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.annotations import Source, Videos, read_table, whole
from pipeline.datasets.entry import BadRow, Entry, Listing
from pipeline.media.video import VideoError
from schemas.errors import UserError

SPLITS = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}
COLUMNS = ("youtube_id", "time_start", "time_end")


def list_kinetics(source: Source) -> Listing:
    listing = Listing()
    found = Videos(source, listing)
    lists = {split: path for split, words in SPLITS.items() if (path := _list(source, words)) is not None}
    if "train" not in lists:
        raise UserError(
            f"kinetics: no train.csv (or *_train.csv) in {source.notes} or a folder in it: set index.annotations to "
            "the folder of the official csv files (docs/datasets.md)"
        )
    rows = {split: list(read_table(path, *COLUMNS, *(["label"] if split != "test" else [])))
            for split, path in lists.items()}  # fmt: skip
    listing.classes = sorted({row["label"] for _, row in rows["train"] if row.get("label")})
    numbers = {name: number for number, name in enumerate(listing.classes)}
    for split, listed in rows.items():
        for place, row in listed:
            try:
                listing.entries.append(_entry(found, row, numbers, split))
            except VideoError as error:
                listing.fail(row["youtube_id"] or place, error, place)
    found.close()
    return listing


def _list(source: Source, words: tuple[str, ...]) -> Path | None:
    for word in words:
        exact = source.look(f"{word}.csv")
        others = sorted({*source.notes.glob(f"*_{word}.csv"), *source.notes.glob(f"*/*_{word}.csv")})
        if exact is None and len(others) > 1:
            names = ", ".join(str(path.relative_to(source.notes)) for path in others[:3])
            raise UserError(f"kinetics: {source.notes} has {names}: set index.annotations to a folder of one version")
        if exact or others:
            return exact or others[0]
    return None


def _entry(found: Videos, row: dict[str, str], numbers: dict[str, int], split: str) -> Entry:
    name, identity = row.get("label", ""), row["youtube_id"]
    if not identity:
        raise BadRow("no youtube_id")
    start, end = (whole(row[column].removesuffix(".0"), column) for column in ("time_start", "time_end"))
    label, stems = numbers.get(name), (f"{identity}_{start:06d}_{end:06d}", f"{identity}_{start}_{end}", identity)
    path = found.take(*stems, label=label, split=split, folder=name or None)
    if not name and split == "test":
        return Entry(path, split=split)
    if not name:
        raise BadRow("no label")
    if label is None:
        raise BadRow(f"the label {name!r} is no class of the training list")
    return Entry(path, label, name, split)
