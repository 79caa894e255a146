"""List formats: how a folder of videos names them, labels them and splits them. One file a format, named in
schemas/registry.py: a function of a Source that gives a Listing."""

from pipeline.datasets.annotations import Source
from pipeline.datasets.entry import Entry, Listing

__all__ = ["Entry", "Listing", "Source"]
