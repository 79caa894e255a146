"""`files`: a folder of videos, flat or nested, without labels."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.entry import Entry, Listing, videos


def list_files(root: Path, list_path: Path | None = None) -> Listing:
    listing = Listing()
    listing.entries = [Entry(path) for path in videos(root, listing)]
    return listing
