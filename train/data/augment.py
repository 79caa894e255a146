"""Crop, resize and flip of a clip, and the same geometry for its score maps.

Shape suffixes: T frames of a clip, F scored frames of a video, H rows, W columns (pixels of frames,
cells of maps), C channels; T' = T / tubelet time slices, h x w the model's token grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Crop:
    """A rectangle of a frame of `frame_width` x `frame_height`, in pixels, perhaps mirrored afterwards."""

    left: int
    top: int
    width: int
    height: int
    frame_width: int
    frame_height: int
    flip: bool = False


def multi_scale_crop(
    frame_width: int,
    frame_height: int,
    *,
    size: int,
    scales: Sequence[float],
    rng: np.random.Generator,
    flip: bool = False,
) -> Crop:
    """A random crop as VideoMAE draws it (GroupMultiScaleCrop, from TSN), the same for all frames of a clip.

    Sides are the shares `scales` of the shorter side of the frame, cut to integers and replaced by
    `size` where within 2 pixels of it (unless the frame is smaller). Uniform over the (width, height)
    pairs whose scales are at most one step apart, 10 for 4 scales, then over 13 fixed places (anchors).
    """
    short = min(frame_width, frame_height)
    sides = [size if abs(side - size) < 3 and size <= short else side for side in _sides(short, scales)]
    pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    width, height = pairs[int(rng.integers(len(pairs)))]
    places = anchors(frame_width - width, frame_height - height)
    left, top = places[int(rng.integers(len(places)))]
    return Crop(left, top, width, height, frame_width, frame_height, flip)


def _sides(short: int, scales: Sequence[float]) -> list[int]:
    return [max(int(short * scale), 1) for scale in scales]


def anchors(room_x: int, room_y: int) -> list[tuple[int, int]]:
    """VideoMAE's 13 places (left, top) of a crop, given the pixels left over in each direction.

    Corners, centre, middles of the edges, centres of the quarters; in steps of a quarter, cut to integers.
    """
    x, y = room_x // 4, room_y // 4
    steps = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)]
    return [(i * x, j * y) for i, j in steps]


def centre_crop(frame_width: int, frame_height: int) -> Crop:
    """The greatest square in the middle: with resize_crop, "short side to size, then centre crop"."""
    side = min(frame_width, frame_height)
    return Crop((frame_width - side) // 2, (frame_height - side) // 2, side, side, frame_width, frame_height)


def resize_crop(clip_THWC: NDArray[np.uint8], crop: Crop, size: int) -> Tensor:
    """Cut the crop out, scale it to size x size, mirror it: uint8 [T, size, size, C], contiguous.

    Bilinear with antialiasing, as PIL's that VideoMAE uses, on bytes. Cropping comes first: pixels
    that are thrown away are not scaled.
    """
    if clip_THWC.shape[1:3] != (crop.frame_height, crop.frame_width):
        raise ValueError(f"a crop of {crop.frame_width} x {crop.frame_height} frames; these are {clip_THWC.shape}")
    cut = torch.from_numpy(clip_THWC)[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if (crop.height, crop.width) != (size, size):
        # Seen as channels-last, which is how the bytes lie: nothing is copied, and torch has a fast path.
        planes = cut.permute(0, 3, 1, 2)
        planes = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        cut = planes.permute(0, 2, 3, 1)
    return (cut.flip(2) if crop.flip else cut).contiguous()


def axis_weights(start: float, length: float, source: int, target: int) -> Floats:
    """Shares of `source` equal cells of [0, 1] in `target` equal cells of [start, start + length].

    float64 [target, source]; a row is the part of the target cell that lies in each source cell, and
    sums to 1. Errors: ValueError for an interval that leaves [0, 1].
    """
    if length <= 0 or start < -1e-9 or start + length > 1 + 1e-9:
        raise ValueError(f"the interval [{start}, {start + length}] is not within [0, 1]")
    edges = np.clip(start + length * np.arange(target + 1) / target, 0, 1) * source
    cells = np.arange(source)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    weights = np.clip(overlap, 0, None)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float64)


def axis_points(start: float, length: float, source: int, target: int) -> Floats:
    """As axis_weights, for samples at the centres of the source cells: linear between the two around the target's
    centre, the last one beyond it."""
    if length <= 0 or start < -1e-9 or start + length > 1 + 1e-9:
        raise ValueError(f"the interval [{start}, {start + length}] is not within [0, 1]")
    places = np.clip((start + length * (np.arange(target) + 0.5) / target) * source - 0.5, 0, source - 1)
    return np.asarray(np.clip(1 - np.abs(places[:, None] - np.arange(source)), 0, None), np.float64)


def resample_map(map_FHW: NDArray[Any], crop: Crop, grid: tuple[int, int], *, points: bool = False) -> Floats:
    """Maps of whole frames as the augmented clip sees them: [..., H, W] to float64 [..., h, w].

    A map's cells divide the frame evenly, whatever its size in pixels. Each cell of the crop's grid
    gets the mean of the map over its area, which is what a patch of the resized crop shows. Of a map of `points`,
    whose scores are of patches that overlap, it gets the score at its centre: a mean would blur.
    """
    rows, columns = map_FHW.shape[-2:]
    weigh = axis_points if points else axis_weights
    weights_y = weigh(crop.top / crop.frame_height, crop.height / crop.frame_height, rows, grid[0])
    weights_x = weigh(crop.left / crop.frame_width, crop.width / crop.frame_width, columns, grid[1])
    if crop.flip:
        weights_x = weights_x[::-1]
    return np.asarray(weights_y @ map_FHW.astype(np.float64) @ weights_x.T, np.float64)


def map_numbers(frames_T: NDArray[np.int64], *, frame_stride: int, maps: int) -> NDArray[np.int64]:
    """Which of a video's maps each frame takes: the nearest scored frame, int64 [T].

    Map m scores frame m * frame_stride. Halves go to the even map (round half to even); frames after
    the last scored one take the last map.
    """
    return np.minimum(np.rint(frames_T / frame_stride).astype(np.int64), maps - 1)


def clip_scores(
    stored_FHW: NDArray[np.uint8],
    frames_T: NDArray[np.int64],
    crop: Crop,
    *,
    frame_stride: int,
    grid: tuple[int, int, int],
    points: bool = False,
) -> Floats:
    """The score of every token of a clip: float64 [T', h, w], in steps of the stored map (0 to 255).

    Each frame takes its nearest map, cropped and flipped like the clip; the frames of a tubelet are
    averaged. Ranks are those of the true scores, for storing scales every map by one positive factor.
    """
    numbers = map_numbers(frames_T, frame_stride=frame_stride, maps=len(stored_FHW))
    used, place_T = np.unique(numbers, return_inverse=True)
    maps_THW = resample_map(stored_FHW[used], crop, grid[1:], points=points)[place_T]
    slices_THW = maps_THW.reshape(grid[0], -1, *grid[1:]).mean(1)
    # Equal areas must tie exactly, on any processor: the last digits depend on the order of summation.
    return np.asarray(np.round(slices_THW, 6), np.float64)
