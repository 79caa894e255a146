"""`hmdb51`: HMDB51 by its files CLASS_test_splitN.txt of the official split N (index.split): `NAME.avi FLAG`.

Flag 1 is training, 2 test, 0 neither: such a video need not be there. Classes are in alphabetical order.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from pipeline.datasets.annotations import Source, Videos, read_lines
from pipeline.datasets.entry import BadRow, Entry, Listing, MissingFile
from pipeline.media.video import VideoError
from schemas.errors import UserError

SPLITS = {"1": "train", "2": "test", "0": ""}


def list_hmdb51(source: Source) -> Listing:
    listing = Listing()
    found = Videos(source, listing)
    ending = f"_test_split{source.split}.txt"
    paths = sorted({path.name: path for path in (*source.notes.glob(f"*/*{ending}"), *source.notes.glob(f"*{ending}"))}
                   .values(), key=lambda path: path.name)  # fmt: skip
    if not paths:
        raise UserError(
            f"hmdb51: no CLASS{ending} in {source.notes} or a folder in it: set index.annotations to the folder of "
            "the 51 files of this split (docs/datasets.md)"
        )
    listing.classes = [path.name.removesuffix(ending) for path in paths]
    for number, (name, path) in enumerate(zip(listing.classes, paths, strict=True)):
        for place, line in read_lines(path):
            video, _, flag = line.rpartition(" ")
            try:
                if flag not in SPLITS or not video.strip():
                    raise BadRow(f"expected a file and 0, 1 or 2, got {line!r}")
                split = SPLITS[flag]
                taken = found.take(PurePosixPath(video.strip()).stem, label=number, split=split, folder=name,
                                   others=listing.classes)  # fmt: skip
                if split:
                    listing.entries.append(Entry(taken, number, name, split))
            except VideoError as error:
                if flag != "0" or not isinstance(error, MissingFile):
                    listing.fail(video.strip() or place, error, place)
    found.close()
    return listing
