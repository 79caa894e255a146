"""`files`: a folder of videos, flat or nested, without labels."""

from __future__ import annotations

from pipeline.datasets.annotations import Source
from pipeline.datasets.entry import Entry, Listing, videos


def list_files(source: Source) -> Listing:
    listing = Listing()
    listing.entries = [Entry(path) for path in videos(source.root, listing, follow=source.follow_links)]
    return listing
