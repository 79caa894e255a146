"""List formats: how a folder of videos names them, labels them and splits them. One file a format."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.datasets.annotations import Source
from pipeline.datasets.csv import list_csv
from pipeline.datasets.diving48 import list_diving48
from pipeline.datasets.entry import Entry, Listing
from pipeline.datasets.epic import list_epic55, list_epic100
from pipeline.datasets.files import list_files
from pipeline.datasets.folder import list_folder
from pipeline.datasets.hmdb51 import list_hmdb51
from pipeline.datasets.kinetics import list_kinetics
from pipeline.datasets.ssv2 import list_ssv2
from pipeline.datasets.ucf101 import list_ucf101
from pipeline.datasets.videomae_lists import list_videomae

__all__ = ["FORMATS", "Entry", "Listing", "Source"]

FORMATS: dict[str, Callable[[Source], Listing]] = {
    "csv": list_csv,
    "diving48": list_diving48,
    "epic100": list_epic100,
    "epic55": list_epic55,
    "files": list_files,
    "folder": list_folder,
    "hmdb51": list_hmdb51,
    "kinetics": list_kinetics,
    "ssv2": list_ssv2,
    "ucf101": list_ucf101,
    "videomae": list_videomae,
}
