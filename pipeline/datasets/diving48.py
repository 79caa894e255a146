"""`diving48`: Diving48 by Diving48_V2_{train,test}.json and Diving48_vocab.json, version 2 of its labels.

The lists' start_frame and end_frame are those of the untrimmed broadcast; the published videos are trimmed already.
"""

from __future__ import annotations

from typing import Any

from pipeline.datasets.annotations import Source, Videos, read_json, whole
from pipeline.datasets.entry import BadRow, Entry, Listing
from pipeline.media.video import VideoError


def list_diving48(source: Source) -> Listing:
    listing = Listing()
    found = Videos(source, listing)
    vocabulary = read_json(source.find("Diving48_vocab.json", what="diving48"), list)
    listing.classes = [" ".join(map(str, dive)) if isinstance(dive, list) else str(dive) for dive in vocabulary]
    for split in ("train", "test"):
        path = source.find(f"Diving48_V2_{split}.json", what="diving48")
        for number, item in enumerate(read_json(path, list), 1):
            try:
                listing.entries.append(_entry(found, item, listing.classes, split))
            except VideoError as error:
                name = item.get("vid_name") if isinstance(item, dict) else None
                place = f"{path.name} item {number}"
                listing.fail(str(name or place), error, place)
    found.close()
    return listing


def _entry(found: Videos, item: Any, classes: list[str], split: str) -> Entry:
    if not isinstance(item, dict) or not {"vid_name", "label"} <= item.keys():
        raise BadRow("no vid_name or no label")
    label = whole(item["label"], "label", most=len(classes) - 1)
    return Entry(found.take(str(item["vid_name"]), label=label, split=split), label, classes[label], split)
