"""List formats: how a folder of videos names them, labels them and splits them. One file a format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.datasets.csv import list_csv
from pipeline.datasets.entry import Entry, Listing
from pipeline.datasets.files import list_files
from pipeline.datasets.folder import list_folder

__all__ = ["FORMATS", "Entry", "Listing"]

# Each takes the data root, resolved, and the path of the list where the format has one.
FORMATS: dict[str, Callable[[Path, Path | None], Listing]] = {
    "csv": list_csv,
    "files": list_files,
    "folder": list_folder,
}
