"""The videos of a workspace as the trainer sees them: the clips' index, next to it those of its sidecars.

There are up to two: the guide, whose score maps or flow make the mask, and the text, whose embeddings the
contrastive loss reads; they may be the same folder. Opening checks that a sidecar belongs to the
clips; after that all are read side by side, row by row.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.config import GUIDES, SPEAKING
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
class Sidecar:
    """A guide's folder and its index, row for row that of the clips."""

    folder: Path
    table: pa.Table  # GUIDE_INDEX

    @property
    def name(self) -> str:
        return self.folder.name

    def place(self, row: int) -> Place:
        return _place(self.folder, self.table, row)

    def entries(self, row: int) -> int:
        """Score maps of a video, or texts where the guide has only those; 0: it has nothing for the video."""
        return int(self.table.column("maps")[row].as_py())

    def where(self, mask: pa.Array) -> "Sidecar":
        return replace(self, table=self.table.filter(mask).combine_chunks())


@dataclass(frozen=True)
class Videos:
    """Rows of the clips' index and, where there are sidecars, the same rows of theirs.

    Tables of Arrow, not lists of Python: loader workers share them without copying.
    """

    workspace: Workspace
    clips: pa.Table  # CLIP_INDEX
    sidecars: tuple[Sidecar, ...] = ()

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

    def sidecar(self, name: str | None) -> Sidecar:
        """One of those that were opened, by its folder's name."""
        return next(sidecar for sidecar in self.sidecars if sidecar.name == name)

    def where(self, chosen: NDArray[np.bool_]) -> "Videos":
        """The rows at which `chosen`, bool [rows], is true."""
        mask = pa.array(chosen)
        sidecars = tuple(sidecar.where(mask) for sidecar in self.sidecars)
        return replace(self, clips=self.clips.filter(mask).combine_chunks(), sidecars=sidecars)


def guide_command(workspace: Workspace, name: str) -> str:
    """What makes the sidecar of that name: guides of captions are named <guide>-<caption set>."""
    for guide in SPEAKING:
        if name.startswith(f"{guide}-"):
            return f"tgmae guide {workspace.root} --guide {guide} --captions {name.removeprefix(f'{guide}-')}"
    # A class of one's own: module:ClassName, whose folder is module.ClassName.
    return f"tgmae guide {workspace.root} --guide {name if name in GUIDES else ':'.join(name.rsplit('.', 1))}"


def open_videos(workspace: Workspace, *names: str | None) -> Videos:
    """All videos of the clip shards, with the sidecars of these names; None and repeated names are ignored.

    Errors: UserError when a stage is missing or incomplete, when a sidecar was made from other clips,
    or when the two indexes differ; it names the first difference and the command that rebuilds the sidecar.
    """
    clips_record = required_record(workspace.clips, f"tgmae shard {workspace.root}")
    clips = read_table(workspace.clips / "index.parquet", CLIP_INDEX).combine_chunks()
    wanted = dict.fromkeys(name for name in names if name is not None)
    return Videos(workspace, clips, tuple(_sidecar(workspace, name, clips, clips_record.output) for name in wanted))


def _sidecar(workspace: Workspace, name: str, clips: pa.Table, digest: str) -> Sidecar:
    folder, command = workspace.guide(name), guide_command(workspace, name)
    made_from = required_record(folder, command).inputs.get("clips")
    if made_from != digest:
        raise UserError(
            f"{folder} was made from other clips than those in {workspace.clips} (digest {str(made_from)[:12]}, "
            f"expected {digest[:12]}): run `{command}` again"
        )
    table = read_table(folder / "index.parquet", GUIDE_INDEX).combine_chunks()
    difference = _first_difference(clips, table)
    if difference:
        raise UserError(f"{folder} does not match {workspace.clips}: {difference}. Run `{command}` again")
    return Sidecar(folder, table)


def videos_to_pretrain_on(workspace: Workspace, *names: str | None) -> tuple[Videos, dict[str, int]]:
    """The videos of pretraining with these sidecars, and how many were left out, by reason: a sidecar without them.

    Those of the splits in TRAIN_SPLITS: a list that names splits keeps its others for evaluation.
    Errors: as open_videos, and UserError when none is left.
    """
    videos = open_videos(workspace, *names)
    splits = np.asarray([split in TRAIN_SPLITS for split in videos.strings("split")], bool)
    if not splits.any():
        found = sorted({str(split) for split in videos.strings("split")})
        raise UserError(
            f"no video to pretrain on: {workspace.clips} holds {len(videos)} videos of the splits {found}, "
            "pretraining takes those of the split 'train', or all of a list that names none"
        )
    videos, left_out = videos.where(splits), {}
    for name in (sidecar.name for sidecar in videos.sidecars):
        there = np.asarray(videos.sidecar(name).table.column("maps").to_numpy() > 0)
        if not there.any():
            raise UserError(f"guides/{name} has nothing for any of the {len(there)} videos: see its failures.parquet")
        left_out[f"not in guides/{name}"] = int((~there).sum())
        videos = videos.where(there)
    return videos, left_out


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
