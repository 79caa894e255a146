"""`files`: a folder of videos, flat or nested, without labels."""

from __future__ import annotations

from pipeline.datasets.entry import Entry, Listing, videos
from pipeline.datasets.listed import Source


def list_files(source: Source) -> Listing:
    listing = Listing()
    listing.entries = [Entry(path) for path in videos(source.root, listing)]
    return listing
