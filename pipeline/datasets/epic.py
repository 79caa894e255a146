"""`epic55` and `epic100`: Epic-Kitchens by its csv files; each action is a part of a long video.

A class is a pair of a verb and a noun, numbered by (verb, noun) over all labelled rows; classes.json tells the verb and
the noun of each. epic100 has its own validation list. epic55 publishes labels of its training videos alone, so some are
set aside for validation: those of some participants (index.val_participants), or those that a list names (index.list).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.annotations import Source, Videos, read_lines, read_table, whole
from pipeline.datasets.entry import MOST_CLASSES, BadRow, Entry, Listing, printable
from pipeline.media.video import VideoError
from schemas.errors import UserError

COLUMNS = ("participant_id", "video_id", "narration", "start_timestamp", "stop_timestamp", "verb", "verb_class", "noun",
           "noun_class")  # fmt: skip
TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
Row = tuple[str, str, dict[str, str]]  # place, split, cells


def list_epic55(source: Source) -> Listing:
    path = source.find("EPIC_train_action_labels.csv", what="epic55")
    table = list(read_table(path, *COLUMNS))
    named = [_names_of(row) for _, row in table]
    if source.list is not None:
        held_out = _held_out(source.list, set().union(*named), path)
    else:
        held_out = {*source.val_participants}
        if held_out and held_out.isdisjoint(set().union(*named)):
            who = ", ".join(sorted(held_out))
            raise UserError(f"index.val_participants: none of {who} is in {path}, so nothing is left for validation")
    rows = [(place, "train" if held_out.isdisjoint(names) else "val", row)
            for (place, row), names in zip(table, named, strict=True)]  # fmt: skip
    return _listing(source, rows, verbs="EPIC_verb_classes.csv", nouns="EPIC_noun_classes.csv")


def list_epic100(source: Source) -> Listing:
    lists = {"train": "EPIC_100_train.csv", "val": "EPIC_100_validation.csv"}
    rows = [(place, split, row) for split, name in lists.items()
            for place, row in read_table(source.find(name, what="epic100"), *COLUMNS)]  # fmt: skip
    return _listing(source, rows, verbs="EPIC_100_verb_classes.csv", nouns="EPIC_100_noun_classes.csv")


def _names_of(row: dict[str, str]) -> set[str]:
    return {row["participant_id"], row["video_id"], _uid(row.get("uid", ""))} - {""}


def _uid(text: str) -> str:
    return str(int(text)) if re.fullmatch(r"[0-9]{1,18}", text) else text  # lists write 00012


def _held_out(path: Path, known: set[str], labels: Path) -> set[str]:
    """The first cell of each line: a uid, a video or a participant, as in RULSTM's validation.csv."""
    held_out = set()
    for place, line in read_lines(path):
        name = _uid(line.split(",")[0].strip())
        if name not in known:
            raise UserError(
                f"index.list: {path.parent}/{place}: {printable(name)[:80]!r} is no uid, video_id or participant_id "
                f"of {labels.name}; expected one of these at the start of each line"
            )
        held_out.add(name)
    if not held_out:
        raise UserError(f"index.list: {path} names nothing for validation")
    return held_out


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
            listing.fail(f"{row['video_id']} {row['start_timestamp']}", error, place)
    found.close()
    return listing


def _entry(found: Videos, row: dict[str, str], numbers: dict[tuple[int, int], int], classes: list[str],
           split: str) -> Entry:  # fmt: skip
    pair = _pair(row)
    if pair is None:
        raise BadRow(f"verb_class {row['verb_class']!r} or noun_class {row['noun_class']!r} is no class number")
    start, end = _seconds(row["start_timestamp"]), _seconds(row["stop_timestamp"])
    if end <= start:
        raise BadRow(f"stops at {row['stop_timestamp']}, which is not after its start {row['start_timestamp']}")
    label = numbers[pair]
    path = found.take(row["video_id"], label=label, split=split)
    return Entry(path, label, classes[label], split, start, end, row["narration"] or None)


def _pair(row: dict[str, str]) -> tuple[int, int] | None:
    try:
        verb, noun = (whole(row[f"{kind}_class"], kind, most=MOST_CLASSES - 1) for kind in ("verb", "noun"))
    except BadRow:
        return None
    return verb, noun


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
            names.setdefault(whole(row[f"{kind}_class"], kind, most=MOST_CLASSES - 1), row[kind])
        except BadRow:
            continue
    return [names.get(number, str(number)) for number in range(max(names, default=-1) + 1)]


def _known(source: Source, file: str) -> Iterator[tuple[int, str]]:
    path = source.find(file, what="epic")
    for place, row in read_table(path):
        number, name = row.get("id") or row.get("verb_id") or row.get("noun_id"), row.get("key") or row.get("class_key")
        if not number or not name:
            continue
        try:
            yield whole(number, "class", most=MOST_CLASSES - 1), name
        except BadRow as error:
            raise UserError(f"{path.parent}/{place}: {error}") from error
