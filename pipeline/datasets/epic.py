"""`epic55` and `epic100`: Epic-Kitchens by its csv files; each action is a part of a long video.

A class is a pair of a verb and a noun, numbered by (verb, noun) over all labelled rows; classes.json tells the verb and
the noun of each. epic100 has its own validation list. epic55 publishes labels of its training videos alone, so those
of some participants are set aside for validation (index.val_participants).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.datasets.entry import BadRow, Entry, Listing
from pipeline.datasets.listed import Source, Videos, read_table, whole
from pipeline.video import VideoError

COLUMNS = ("participant_id", "video_id", "narration", "start_timestamp", "stop_timestamp", "verb", "verb_class", "noun",
           "noun_class")  # fmt: skip
TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
Row = tuple[str, str, dict[str, str]]  # place, split, cells


def list_epic55(source: Source) -> Listing:
    path = source.find("EPIC_train_action_labels.csv", what="epic55")
    held_out = {*source.val_participants}
    rows = [(place, "val" if row["participant_id"] in held_out else "train", row)
            for place, row in read_table(path, *COLUMNS)]  # fmt: skip
    return _listing(source, rows, verbs="EPIC_verb_classes.csv", nouns="EPIC_noun_classes.csv")


def list_epic100(source: Source) -> Listing:
    lists = {"train": "EPIC_100_train.csv", "val": "EPIC_100_validation.csv"}
    rows = [(place, split, row) for split, name in lists.items()
            for place, row in read_table(source.find(name, what="epic100"), *COLUMNS)]  # fmt: skip
    return _listing(source, rows, verbs="EPIC_100_verb_classes.csv", nouns="EPIC_100_noun_classes.csv")


def _listing(source: Source, rows: list[Row], *, verbs: str, nouns: str) -> Listing:
    listing = Listing()
    found = Videos(source, listing)
    pairs = sorted({pair for _, _, row in rows if (pair := _pair(row)) is not None})
    verb_names, noun_names = (_names(source, file, kind, rows) for file, kind in ((verbs, "verb"), (nouns, "noun")))
    listing.classes = [f"{verb_names[verb]} {noun_names[noun]}" for verb, noun in pairs]
    listing.groups = {
        "verb": {"names": verb_names, "of_class": [verb for verb, _ in pairs]},
        "noun": {"names": noun_names, "of_class": [noun for _, noun in pairs]},
    }
    numbers = {pair: number for number, pair in enumerate(pairs)}
    for place, split, row in rows:
        try:
            listing.entries.append(_entry(found, row, numbers, listing.classes, split))
        except VideoError as error:
            listing.fail(f"{row['video_id']} {row['start_timestamp']}", type(error)(f"{place}: {error}"))
    found.close()
    return listing


def _entry(found: Videos, row: dict[str, str], numbers: dict[tuple[int, int], int], classes: list[str],
           split: str) -> Entry:  # fmt: skip
    pair = _pair(row)
    if pair is None:
        raise BadRow(f"verb_class {row['verb_class']!r} or noun_class {row['noun_class']!r} is not a number")
    start, end = _seconds(row["start_timestamp"]), _seconds(row["stop_timestamp"])
    if end <= start:
        raise BadRow(f"stops at {row['stop_timestamp']}, which is not after its start {row['start_timestamp']}")
    label = numbers[pair]
    return Entry(found.take(row["video_id"]), label, classes[label], split, start, end, row["narration"] or None)


def _pair(row: dict[str, str]) -> tuple[int, int] | None:
    try:
        return whole(row["verb_class"], "verb"), whole(row["noun_class"], "noun")
    except BadRow:
        return None


def _seconds(text: str) -> float:
    match = TIME.fullmatch(text.strip())
    if match is None:
        raise BadRow(f"{text!r} is not a time such as 00:01:02.34")
    hours, minutes, seconds = match.groups()
    return round(int(hours) * 3600 + int(minutes) * 60 + float(seconds), 6)


def _names(source: Source, file: str, kind: str, rows: list[Row]) -> list[str]:
    """By number: from the dataset's list of classes where it is there, else the words of the first row of each."""
    names: dict[int, str] = {}
    path = source.look(file)
    for number, name in _known(source, file) if path else ():
        names[number] = name
    for _, _, row in rows:
        try:
            names.setdefault(whole(row[f"{kind}_class"], kind), row[kind])
        except BadRow:
            continue
    return [names.get(number, str(number)) for number in range(max(names, default=-1) + 1)]


def _known(source: Source, file: str) -> Iterator[tuple[int, str]]:
    for _, row in read_table(source.find(file, what="epic")):
        number, name = row.get("id") or row.get("verb_id") or row.get("noun_id"), row.get("key") or row.get("class_key")
        if number and number.isdigit() and name:
            yield int(number), name
