"""The motion-vectors guide: how fast the codec says that each patch moves (MGM, Fan et al. 2023).

MGM published no code; what is built here is its paper's "motion vectors stored in the compressed format" as a score
map. The vectors are those of our own H.264 clips: no B-frames and one reference frame (pipeline/media/encoding.py), so
a vector leads from a block to its place one frame before, and its length is a speed.

Shapes: T frames, gh x gw grid cells; units are squares of UNIT pixels; 2: (x, y), pixels per frame to the right and
downwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from av.video.frame import PictureType

from pipeline.guides import SHARDS, Floats, Recipe, Scores
from pipeline.guides.frames import decoded
from pipeline.guides.grid import grid, overlaps
from pipeline.media.video import VideoError
from schemas.config import Experiment, Motion

CHUNK = 256  # frames
UNIT = 8  # pixels: libavcodec tells no vector of a smaller block
# Motion vectors next to the frames; nobody looks at the pictures, so they need not be smoothed.
DECODER = {"flags2": "+export_mvs", "skip_loop_filter": "all"}


def motion_recipe(experiment: Experiment) -> Recipe:
    motion = experiment.motion
    make, read = partial(MotionGuide, motion), CodecMotion(motion.patch)
    return Recipe(make, motion.frame_stride, ["numpy", *SHARDS], read, holds_model=False)


class NoMotion(VideoError):
    pass


class CodecMotion:
    """Reader: the motion of each cell in EVERY frame, float32 [CHUNK or fewer, gh, gw, 2]; NaN where none is told:
    in key frames, and in cells that are nothing but intra-coded blocks."""

    def __init__(self, patch: int) -> None:
        self._patch = patch

    def __call__(self, data: bytes, stride: int, frames: int) -> Iterator[Floats]:
        chunk = []
        for frame in decoded(data, frames, DECODER):
            if frame.pict_type == PictureType.B:
                raise NoMotion("stored with shard.bframes: its vectors are no speeds; store with shard.bframes = 0")
            vectors = frame.side_data.get("MOTION_VECTORS")
            told = np.zeros(0, VECTOR) if vectors is None else vectors.to_ndarray()
            chunk.append(cell_motion(told, frame.height, frame.width, self._patch))
            if len(chunk) == CHUNK:
                yield np.stack(chunk)
                chunk = []
        if chunk:
            yield np.stack(chunk)


VECTOR = [(name, "i4") for name in ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")]


def cell_motion(vectors: np.ndarray[Any, Any], height: int, width: int, patch: int) -> Floats:
    """libavcodec's vectors of one frame -> float32 [gh, gw, 2]: the mean motion over the told part of each cell.

    Of a block w x h with its middle at dst, the content was found motion / motion_scale pixels away in the frame
    before (source -1), so it has come from there; or in the frame after (source 1), so it goes there.
    """
    rows, columns = -(-height // UNIT), -(-width // UNIT)
    told_UU3 = np.zeros((rows, columns, 3))  # how many vectors, their sum
    vector = {name: vectors[name].astype(np.int64) for name, _ in VECTOR}
    speed_N2 = np.stack((vector["motion_x"], vector["motion_y"]), axis=1) * vector["source"][:, None]
    entry_N3 = np.insert(speed_N2 / vector["motion_scale"][:, None], 0, 1.0, axis=1)
    for y in (0, UNIT):
        for x in (0, UNIT):  # blocks are of one unit or two along each side
            row_N = (vector["dst_y"] - vector["h"] // 2 + y) // UNIT
            column_N = (vector["dst_x"] - vector["w"] // 2 + x) // UNIT
            there_N = (vector["h"] > y) & (vector["w"] > x)
            there_N &= (row_N >= 0) & (row_N < rows) & (column_N >= 0) & (column_N < columns)  # coded beyond the frame
            np.add.at(told_UU3, (row_N[there_N], column_N[there_N]), entry_N3[there_N])
    gh, gw = grid(height, width, patch)
    across, down = overlaps(width, gw, UNIT), overlaps(height, gh, UNIT)
    cells_3 = down @ told_UU3.transpose(2, 0, 1) @ across.T  # [3, gh, gw]
    with np.errstate(invalid="ignore"):
        return np.asarray((cells_3[1:] / cells_3[0]).transpose(1, 2, 0), np.float32)


class MotionGuide:
    def __init__(self, options: Motion) -> None:
        self._options = options

    def score(self, chunks: Iterable[Floats], captions: list[str]) -> Scores:
        """One map: speed in pixels per frame, of every frame_stride-th frame the mean over the frames nearest to it.

        Raises NoMotion for a clip of several frames that are all key frames.
        """
        motion_T2 = np.concatenate(list(chunks))  # [T, gh, gw, 2]
        if len(motion_T2) > 1 and np.isnan(motion_T2).all():
            raise NoMotion("no frame has motion vectors: the clips need shard.gop = 2 or more")
        fill(motion_T2)
        if self._options.remove_camera:
            motion_T2 -= np.median(motion_T2, axis=(1, 2), keepdims=True)
        return Scores(nearest_mean(np.hypot(motion_T2[..., 0], motion_T2[..., 1]), self._options.frame_stride)[None])


def fill(motion_T2: Floats) -> None:
    """In place: what is not told of a cell is the mean of the frames before and after in which it is; else zero."""
    frames = len(motion_T2)
    number_T1 = np.arange(frames)[:, None]
    for row_TX2 in motion_T2.swapaxes(0, 1):  # by row, so that the indexes of a long video stay small
        told_TX = ~np.isnan(row_TX2[..., 0])
        before_TX = np.maximum.accumulate(np.where(told_TX, number_T1, -1))
        after_TX = np.minimum.accumulate(np.where(told_TX, number_T1, frames)[::-1])[::-1]
        before_TX, after_TX = (
            np.where(before_TX < 0, after_TX, before_TX),
            np.where(after_TX == frames, before_TX, after_TX),
        )
        ends = [
            np.take_along_axis(row_TX2, end_TX[..., None].clip(0, frames - 1), 0) for end_TX in (before_TX, after_TX)
        ]
        row_TX2[:] = np.nan_to_num((ends[0] + ends[1]) / 2)  # NaN: told in no frame


def nearest_mean(maps_THW: Floats, stride: int) -> Floats:
    """[T, gh, gw] -> [F, gh, gw]: the mean over the frames that are nearer to frame f * stride than to other such
    frames, halves going to the even f: for which the trainer takes map f."""
    frames = len(maps_THW)
    scored = -(-frames // stride)
    number_T = np.minimum(np.rint(np.arange(frames) / stride).astype(np.int64), scored - 1)
    starts_F = np.searchsorted(number_T, np.arange(scored))
    counts_F = np.diff(starts_F, append=frames)
    return np.asarray(np.add.reduceat(maps_THW, starts_F) / counts_F[:, None, None], np.float32)
