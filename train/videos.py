"""The videos of a workspace as the trainer sees them: the clips' index, beside it the guide's.

Opening checks that the two belong together; after that they are read side by side, row by row.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import UserError
from schemas.stage import required_record
from schemas.tables import CLIP_INDEX, GUIDE_INDEX, read_table
from schemas.workspace import Workspace, shard_name

TRAIN_SPLITS = ("train", "")  # of pretraining; "" is what a list without splits gives to all its videos


class Place(NamedTuple):
    """Where a sample lies: a slice of a tar."""

    path: Path
    offset: int  # bytes
    length: int  # bytes
    key: str

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset}"


@dataclass(frozen=True)
class Videos:
    """Rows of the clips' index and, where there is a guide, the same rows of the guide's.

    Tables of Arrow, not lists of Python: loader workers share them without copying.
    """

    workspace: Workspace
    clips: pa.Table  # CLIP_INDEX
    guide_name: str | None = None
    guide: pa.Table | None = None  # GUIDE_INDEX

    def __len__(self) -> int:
        return int(self.clips.num_rows)

    def column(self, name: str) -> NDArray[Any]:
        """A numeric column of the clips' index; nulls, which only labels have, are -1."""
        return np.asarray(self.clips.column(name).fill_null(-1).to_numpy())

    def strings(self, name: str) -> list[str | None]:
        return list(self.clips.column(name).to_pylist())

    def all_keys(self) -> list[str]:
        return [str(key) for key in self.strings("key")]

    def key(self, row: int) -> str:
        return str(self.clips.column("key")[row].as_py())

    def clip_place(self, row: int) -> Place:
        return _place(self.workspace.clips, self.clips, row)

    def guide_place(self, row: int) -> Place:
        table, name = self._guide()
        return _place(self.workspace.guide(name), table, row)

    def maps(self, row: int) -> int:
        """Score maps (captions) of a video; 0: the guide has none for it."""
        return int(self._guide()[0].column("maps")[row].as_py())

    def where(self, chosen: NDArray[np.bool_]) -> "Videos":
        """The rows at which `chosen`, bool [rows], is true."""
        mask = pa.array(chosen)
        guide = None if self.guide is None else self.guide.filter(mask).combine_chunks()
        return replace(self, clips=self.clips.filter(mask).combine_chunks(), guide=guide)

    def _guide(self) -> tuple[pa.Table, str]:
        assert self.guide is not None and self.guide_name is not None, "opened without a guide"
        return self.guide, self.guide_name


def open_videos(workspace: Workspace, guide_name: str | None = None) -> Videos:
    """All videos of the clip shards, with their score maps when a guide is named.

    Errors: UserError when a stage is missing or incomplete, when the guide was made from other clips,
    or when the two indexes differ; it names the first difference and the command that rebuilds the guide.
    """
    clips_record = required_record(workspace.clips, f"tgmae shard {workspace.root}")
    clips = read_table(workspace.clips / "index.parquet", CLIP_INDEX).combine_chunks()
    if guide_name is None:
        return Videos(workspace, clips)
    folder = workspace.guide(guide_name)
    command = f"tgmae guide {workspace.root} --captions {guide_name.partition('-')[2] or guide_name}"
    record = required_record(folder, command)
    made_from = record.inputs.get("clips")
    if made_from != clips_record.output:
        raise UserError(
            f"{folder} was made from other clips than those in {workspace.clips} (digest {str(made_from)[:12]}, "
            f"expected {clips_record.output[:12]}): run `{command}` again"
        )
    guide = read_table(folder / "index.parquet", GUIDE_INDEX).combine_chunks()
    difference = _first_difference(clips, guide)
    if difference:
        raise UserError(f"{folder} does not match {workspace.clips}: {difference}. Run `{command}` again")
    return Videos(workspace, clips, guide_name, guide)


def videos_to_pretrain_on(workspace: Workspace, guide_name: str | None) -> tuple[Videos, int]:
    """The videos of pretraining, and how many were left out because the guide has no map of them.

    Those of the splits in TRAIN_SPLITS: a list that names splits keeps its others for evaluation.
    Errors: as open_videos, and UserError when none is left.
    """
    videos = open_videos(workspace, guide_name)
    splits = np.asarray([split in TRAIN_SPLITS for split in videos.strings("split")], bool)
    videos_of_split = videos.where(splits)
    if not len(videos_of_split):
        found = sorted({str(split) for split in videos.strings("split")})
        raise UserError(
            f"no video to pretrain on: {workspace.clips} holds {len(videos)} videos of the splits {found}, "
            "pretraining takes those of the split 'train', or all of a list that names none"
        )
    if videos_of_split.guide is None:
        return videos_of_split, 0
    guided = np.asarray(videos_of_split.guide.column("maps").to_numpy() > 0)
    if not guided.any():
        raise UserError(f"guide {guide_name!r} has no score map of any of the {len(guided)} videos: see its failures")
    return videos_of_split.where(guided), int((~guided).sum())


def _first_difference(clips: pa.Table, guide: pa.Table) -> str | None:
    ours = list(zip(clips.column("shard").to_pylist(), clips.column("key").to_pylist(), strict=True))
    theirs = list(zip(guide.column("shard").to_pylist(), guide.column("key").to_pylist(), strict=True))
    for row, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return f"row {row} is {a[1]} in shard {a[0]} there, but {b[1]} in shard {b[0]} in the guide"
    if len(ours) != len(theirs):
        return f"there are {len(ours)} clips, but {len(theirs)} rows in the guide"
    return None


def _place(folder: Path, table: pa.Table, row: int) -> Place:
    shard, offset, length, key = (table.column(n)[row].as_py() for n in ("shard", "offset", "length", "key"))
    return Place(folder / shard_name(shard), offset, length, key)
