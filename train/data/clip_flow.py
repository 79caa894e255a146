"""A video's stored optical flow as the augmented clip sees it: cropped, resized, flipped, frame by frame.

MGMAE (Huang et al. 2023) runs RAFT on the augmented clip; here the flow was stored once for the whole frame, as four
score maps (next x, next y, previous x, previous y), and takes the clip's geometry.

Shape suffixes: F scored frames of a video, I intervals between them; T frames of a clip, T' time slices of S
frames; H rows, W columns of cells (FINE a token's side); 2: (x, y), in cells.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.shards import dequantize
from train.data.augment import Crop, resample_map
from train.masking.carried_map import FINE, look_up

Floats = NDArray[np.float64]


def clip_flow(
    stored_4FHW: NDArray[np.uint8],
    scale: Sequence[float],
    offset: Sequence[float],
    frames_T: NDArray[np.int64],
    crop: Crop,
    *,
    frame_stride: int,
    grid: tuple[int, int, int],
) -> Floats:
    """Where a cell's content is one frame nearer to the clip's middle frame, relative to the cell: [T', S, H, W, 2].

    The middle frame, T // 2, has zeros: frames before it look one frame ahead, frames after it one back.

    stored, scale, offset: of the sidecar (schemas/shards.py), in pixels of the stored frame. Map f of `next` is the
    displacement of the content from scored frame f to f + 1, `previous` that to f - 1; scored frames are
    `frame_stride` apart. Between them content moves at constant speed: a step within an interval has its part of
    the displacement, one over several follows them one after the other. After the last scored frame the
    last interval's motion goes on. Frames that are repeated have no flow between them.
    """
    shape = (grid[1] * FINE, grid[2] * FINE)
    maps = stored_4FHW.shape[1]
    first, last = (int(min(frame // frame_stride, maps - 1)) for frame in (frames_T[0], frames_T[-1]))
    number_I = np.arange(first, last + 1)
    ends_I = np.minimum(number_I + 1, maps - 1)
    found = [
        dequantize(stored_4FHW[axis, places_I], scale[axis], offset[axis])
        for axis, places_I in enumerate((number_I, number_I, ends_I, ends_I))
    ]
    ahead_2I, back_2I = (resample_map(np.stack(pair), crop, shape) / frame_stride for pair in (found[:2], found[2:]))
    ahead_2I[:, number_I == maps - 1] = -back_2I[:, number_I == maps - 1]  # it has no next frame
    cells = np.asarray([shape[1] / crop.width * (-1 if crop.flip else 1), shape[0] / crop.height])
    still = 0.0 if maps == 1 else 1.0  # one scored frame says nothing of motion
    ahead_IHW2, back_IHW2 = (torch.from_numpy(x.transpose(1, 2, 3, 0) * cells * still) for x in (ahead_2I, back_2I))

    def way(t: int) -> list[tuple[int, int]]:
        """Intervals, counted from the first used, between frames t and t + 1 of the clip."""
        return [(i - first, n) for i, n in intervals(int(frames_T[t]), int(frames_T[t + 1]), frame_stride, maps)]

    base = len(frames_T) // 2
    middle_HW2 = torch.zeros_like(ahead_IHW2[0])
    steps = [follow(ahead_IHW2, way(t)) for t in range(base)]
    steps += [middle_HW2, *(follow(back_IHW2, way(t - 1)[::-1]) for t in range(base + 1, len(frames_T)))]
    return np.asarray(torch.stack(steps).reshape(grid[0], -1, *shape, 2).numpy())


def intervals(before: int, after: int, frame_stride: int, maps: int) -> list[tuple[int, int]]:
    """(interval, frames) on the way from one frame of a video to a later one; the last interval never ends."""
    parts = []
    while before < after:
        number = min(before // frame_stride, maps - 1)
        end = after if number == maps - 1 else min(after, (number + 1) * frame_stride)
        parts.append((number, end - before))
        before = end
    return parts


def follow(speed_IHW2: torch.Tensor, parts: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Displacement [H, W, 2] of what starts in each cell and moves by `frames` at the speed of each interval."""
    moved_HW2 = torch.zeros_like(speed_IHW2[0])
    for number, frames in parts:
        moved_HW2 = moved_HW2 + frames * look_up(speed_IHW2[number], moved_HW2, outside="border")
    return moved_HW2
