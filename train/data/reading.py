"""One sample out of the shards: a slice of a tar, its members, its frames, what a sidecar says of it.

Every error is a UserError that names the shard and the offset, and the video once it is known.

Shape suffixes: T frames of a clip, H rows, W columns; E entries of a sidecar (score maps or captions), F
scored frames of a video; D width of a text embedding; T', h, w the token grid, S frames of a tubelet.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import UserError
from schemas.shards import UNREADABLE_WIDTHS, ClipMeta, GuideMeta, clip_meta, guide_meta, npy_array
from schemas.tar_sample import slice_samples
from train.data.augment import Crop, clip_scores
from train.data.clip_flow import clip_flow
from train.data.decoders import DecodingFailed, decoder
from train.data.videos import Place, Sidecar

Array = NDArray[Any]
FOREIGN = "the shard is damaged or not the one its index was written for; delete its folder's stage.json and rebuild it"
NARROW = "decord cannot give videos {} pixels wide; `tgmae shard` no longer stores such: build the clips again"
FLOW_MAPS = 4  # of an optical-flow guide: next x, next y, previous x, previous y


def read_members(place: Place, fields: Sequence[str]) -> dict[str, bytes]:
    """The members of one sample by extension, at least `fields`, read with one pread of the tar.

    Errors: UserError naming the shard and the offset when it is missing or cut short, when the slice
    is not that of a tar, or when it holds another key than the index says.
    """
    try:
        descriptor = os.open(place.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise UserError(f"cannot open the shard {place.path}: {error.strerror}") from error
    try:
        end = place.offset + place.length - os.fstat(descriptor).st_size
        if min(place.offset, place.length) < 0 or end > 0:  # before so many bytes are asked for
            raise UserError(f"{place}: the shard ends {max(end, 0)} bytes early: {FOREIGN}")
        data = os.pread(descriptor, place.length, place.offset)
    finally:
        os.close(descriptor)
    try:
        samples = slice_samples(data)
    except ValueError as error:
        raise UserError(f"{place}: not a sample of a tar ({error}): {FOREIGN}") from error
    keys = [key for key, _ in samples]
    if keys != [place.key]:
        raise UserError(f"{place}: holds {keys or 'nothing'}, the index says {place.key!r}: {FOREIGN}")
    found = samples[0][1]
    missing = [field for field in fields if field not in found]
    if missing:
        raise UserError(f"{place}: sample {place.key} lacks {', '.join(missing)}: {FOREIGN}")
    return found


def read_clip(place: Place) -> tuple[ClipMeta, bytes]:
    """The description and the encoded video of a clip sample. Errors: as read_members."""
    members = read_members(place, ("json", "mp4"))
    return clip_meta(members["json"], str(place)), members["mp4"]


def decode(mp4: bytes, frames_T: NDArray[np.int64], meta: ClipMeta, where: str, by: str = "auto") -> NDArray[np.uint8]:
    """The frames of the given numbers, RGB, uint8 [T, H, W, 3]; each is decoded once, however often named.

    by: pretrain.decoder. Shards are our own and whole, so a video that does not decode is an error, not a sample to
    skip. Errors: UserError naming the video.
    """
    unique, place_T = np.unique(frames_T, return_inverse=True)
    try:
        found, pixels = decoder(by)(mp4, unique.tolist(), meta.frames)
    except DecodingFailed as error:
        advice = NARROW.format(meta.width) if meta.width in UNREADABLE_WIDTHS else FOREIGN
        raise UserError(f"{where}: video {meta.video_id!r} cannot be decoded ({error}): {advice}") from error
    if found != meta.frames:
        raise UserError(f"{where}: video {meta.video_id!r} has {found} frames, not {meta.frames}: {FOREIGN}")
    return pixels if np.array_equal(unique, frames_T) else pixels[place_T]


@dataclass(frozen=True)
class Guidance:
    """What a sidecar holds of one video."""

    place: Place
    meta: GuideMeta
    entries: int  # E
    members: dict[str, bytes]
    arrays: dict[str, Array] = field(default_factory=dict)  # those read so far: a video gives several clips

    def stored(self, entries: int | None = None) -> NDArray[np.uint8]:
        """The stored maps, uint8 [E, F, H, W]. Errors: UserError when they are not that."""
        maps = self.array("scores.npy", entries)
        frames = -(-self.meta.frames // self.meta.frame_stride)
        if maps.dtype != np.uint8 or maps.ndim != 4 or maps.shape[1] != frames or 0 in maps.shape:
            raise UserError(
                f"{self.place}: scores.npy of {self.place.key} is {maps.dtype} {maps.shape}, not uint8 with {frames} "
                f"scored frames and a grid: {FOREIGN}"
            )
        return maps

    def texts(self) -> NDArray[np.float32]:
        """The captions' embeddings, float32 [E, D]. Errors: UserError when they are not that, or not finite."""
        texts = self.array("text.npy")
        if texts.dtype.kind != "f" or texts.ndim != 2 or not np.isfinite(texts).all():
            raise UserError(
                f"{self.place}: text.npy of {self.place.key} is {texts.dtype} {texts.shape}, not embeddings that are "
                f"finite: {FOREIGN}"
            )
        return texts.astype(np.float32)

    def array(self, name: str, entries: int | None = None) -> Array:
        """One of its arrays, with an entry each. Errors: UserError when it is not that."""
        expected = self.entries if entries is None else entries
        try:
            if name not in self.arrays:
                self.arrays[name] = npy_array(self.members[name])
        except (ValueError, EOFError) as error:
            raise UserError(f"{self.place}: {name} of {self.place.key} is not an array ({error}): {FOREIGN}") from error
        array = self.arrays[name]
        if not array.ndim or len(array) != expected:
            raise UserError(
                f"{self.place}: {name} of {self.place.key} has shape {array.shape}, not {expected} entries: {FOREIGN}"
            )
        return array

    def scores(self, entry: int, frames_T: NDArray[np.int64], crop: Crop, grid: tuple[int, int, int]) -> Array:
        """A score for every token of a clip: float64 [T', h, w], in steps of the stored map."""
        stored_FHW, meta = self.stored()[entry], self.meta
        return clip_scores(stored_FHW, frames_T, crop, frame_stride=meta.frame_stride, grid=grid, points=meta.points)

    def flow(self, frames_T: NDArray[np.int64], crop: Crop, grid: tuple[int, int, int]) -> Array:
        """The flow of a clip towards its middle frame, see train/data/clip_flow.py."""
        stored_4FHW, meta = self.stored(FLOW_MAPS), self.meta
        return clip_flow(
            stored_4FHW, meta.scale, meta.offset, frames_T, crop, frame_stride=meta.frame_stride, grid=grid
        )


def read_guidance(sidecar: Sidecar, row: int, clip: ClipMeta, fields: Sequence[str]) -> Guidance:
    """A video's sample of a sidecar, with at least these fields, checked against its clip and the index."""
    place, entries = sidecar.place(row), sidecar.entries(row)
    members = read_members(place, ("json", *fields))
    meta = guide_meta(members["json"], str(place))
    if meta.frames != clip.frames:
        raise UserError(f"{place}: scores of {meta.frames} frames, but the clip has {clip.frames}: {FOREIGN}")
    found = {len(meta.scale), len(meta.offset), len(meta.captions)} - {0}
    if found != {entries}:
        raise UserError(f"{place}: {sorted(found)} score maps or captions, the index says {entries}: {FOREIGN}")
    return Guidance(place, meta, entries, members)
