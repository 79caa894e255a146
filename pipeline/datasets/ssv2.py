"""`ssv2`: Something-Something v2 by its json files: {train,validation,test}.json and labels.json.

A class is a template without its brackets, numbered by labels.json; `text` is the label with its places filled in.
The test set names ids alone, so its videos are unlabelled.
"""

from __future__ import annotations

from typing import Any

from pipeline.datasets.annotations import Source, Videos, read_json, whole
from pipeline.datasets.entry import BadRow, Entry, Listing
from pipeline.media.video import VideoError
from schemas.errors import UserError

PREFIX = "something-something-v2-"
SPLITS = {"train": "train", "validation": "val", "test": "test"}


def list_ssv2(source: Source) -> Listing:
    listing = Listing()
    found = Videos(source, listing)
    path = source.find(f"{PREFIX}labels.json", "labels.json", what="ssv2")
    try:
        labels = {name: whole(number, f"number of {name!r},") for name, number in read_json(path, dict).items()}
    except BadRow as error:
        raise UserError(f"{path}: {error}; expected such as {{'Closing something': '7'}}") from error
    if sorted(labels.values()) != list(range(len(labels))):
        raise UserError(f"{path}: classes are not numbered 0 to {len(labels) - 1}")
    listing.classes = sorted(labels, key=labels.__getitem__)
    source.find(f"{PREFIX}train.json", "train.json", what="ssv2")
    for name, split in SPLITS.items():
        path_of_split = source.look(f"{PREFIX}{name}.json", f"{name}.json")
        for number, item in enumerate(read_json(path_of_split, list) if path_of_split else (), 1):
            place = f"{path_of_split.name if path_of_split else name} item {number}"
            try:
                listing.entries.append(_entry(found, item, labels, split))
            except VideoError as error:
                identity = item.get("id", place) if isinstance(item, dict) else place
                listing.fail(str(identity), error, place)
    found.close()
    return listing


def _entry(found: Videos, item: Any, labels: dict[str, int], split: str) -> Entry:
    if not isinstance(item, dict) or "id" not in item:
        raise BadRow("no id")
    name = str(item.get("template", "")).replace("[", "").replace("]", "")
    label = labels.get(name)
    path = found.take(str(whole(str(item["id"]), "id")), label=label, split=split)
    if "template" not in item:
        if split != "test":
            raise BadRow("no template, which names the class")
        return Entry(path, split=split)
    if label is None:
        raise BadRow(f"the template {item['template']!r} is no class of labels.json")
    return Entry(path, label, name, split, text=str(item["label"]) if item.get("label") else None)
