"""`folder`: a folder a class, `LABEL/.../video`, or a folder a split above it, `train/LABEL/.../video`.

Folders count as splits when every folder at the top that holds videos is named as one, in capitals or not; several
such folders next to others are refused. Classes are the folders' names, numbered in alphabetical order over all splits.
A video in no class folder is unlabelled.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from pipeline.datasets.annotations import Source
from pipeline.datasets.entry import Entry, Listing, videos
from schemas.errors import UserError
from schemas.foreign_text import shown

NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid"), "test": ("test", "testing")}
SPLITS = {name: split for split, names in NAMES.items() for name in names}  # in lower case


def list_folder(source: Source) -> Listing:
    listing = Listing()
    placed = [(path, path.split("/")[:-1]) for path in videos(source.root, listing, follow=source.follow_links)]
    tops = {folders[0] for _, folders in placed if folders}
    depth = int(_are_splits(tops, source.root))  # of the class folder
    names = sorted({folders[depth] for _, folders in placed if len(folders) > depth})
    labels = {name: number for number, name in enumerate(names)}
    listing.classes = names  # also those whose videos turn out to be unusable
    for path, folders in placed:
        name = folders[depth] if len(folders) > depth else None
        split = SPLITS[folders[0].casefold()] if depth and folders else ""
        listing.entries.append(Entry(path, None if name is None else labels[name], name, split))
    return listing


def _are_splits(tops: Collection[str], root: Path) -> bool:
    """Whether the folders at the top are splits; a single one among classes may be a class, such as the vehicle."""
    splits = sorted(name for name in tops if name.casefold() in SPLITS)
    others = sorted(set(tops) - set(splits))
    if splits and others:
        found = f"{root} holds {', '.join(splits)} next to {len(others)} other folders ({shown(', '.join(others[:3]))})"
        if len({SPLITS[name.casefold()] for name in splits}) > 1:
            raise UserError(
                f"{found}: splits and something else. Move the others away, or give index.data a folder of splits "
                "alone or of classes alone, or list the videos (index.format = 'csv')"
            )
        print(f"index: {found}: taken as classes. If {splits[0]} is a split, move the others away", file=sys.stderr)
    return bool(splits) and not others
