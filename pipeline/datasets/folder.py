"""`folder`: a folder a class, `LABEL/.../video`, or a folder a split above it, `train/LABEL/.../video`.

Folders count as splits when every folder at the top that holds videos is named as one. Classes are the
folders' names, numbered in alphabetical order over all splits. A video in no class folder is unlabelled.
"""

from __future__ import annotations

from pipeline.datasets.annotations import Source
from pipeline.datasets.entry import Entry, Listing, videos

SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


def list_folder(source: Source) -> Listing:
    listing = Listing()
    placed = [(path, path.split("/")[:-1]) for path in videos(source.root, listing)]
    tops = {folders[0] for _, folders in placed if folders}
    depth = 1 if tops and tops <= SPLITS.keys() else 0  # of the class folder
    names = sorted({folders[depth] for _, folders in placed if len(folders) > depth})
    labels = {name: number for number, name in enumerate(names)}
    for path, folders in placed:
        name = folders[depth] if len(folders) > depth else None
        split = SPLITS[folders[0]] if depth and folders else ""
        listing.entries.append(Entry(path, None if name is None else labels[name], name, split))
    return listing
