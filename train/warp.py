"""Motion-guided masking of MGMAE (Huang et al. 2023; recipes.md 3.4): a random map carried along the flow.

MGMAE runs RAFT on the augmented clip; here the flow was stored once for the whole frame, as four score
maps (next x, next y, previous x, previous y), and takes the clip's crop, resize and flip. Everything is
done on a grid of FINE x FINE cells a token instead of on pixels; docs/masks.md says what that changes.

Shape suffixes: F scored frames of a video, I intervals between them; T frames of a clip, T' time slices of S
frames; H rows, W columns of cells (FINE a token's side), h x w of tokens; 2: (x, y), in cells.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from schemas.shards import dequantize
from train.augment import Crop, resample_map

Floats = NDArray[np.float64]
FINE = 4  # cells of a token's side: 4 pixels of a 16-pixel patch


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


def look_up(field_HWC: torch.Tensor, shift_HW2: torch.Tensor, *, outside: Literal["zeros", "border"]) -> torch.Tensor:
    """The field at each cell's place + shift, bilinear: [H, W, C]. Beyond the frame: zero, or the nearest cell's."""
    h, w = shift_HW2.shape[:2]
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place_HW2 = torch.stack((columns, rows), -1) + shift_HW2
    place_HW2 = (2 * place_HW2 + 1) / torch.tensor([w, h]) - 1  # grid_sample's: -1 and 1 are the frame's edges
    field = field_HWC.permute(2, 0, 1)[None]
    found = F.grid_sample(field, place_HW2[None], mode="bilinear", padding_mode=outside, align_corners=False)
    return found[0].permute(1, 2, 0)


def visible_sums(flow_TSHW2: Floats, centres: int, rng: np.random.Generator) -> Floats:
    """How visible the flow makes each token, float64 [T', h, w].

    A Gaussian of one token's width (exp(-d^2), without a half) stands on each of `centres` random tokens
    of the middle frame; overlapping ones by their greatest value. Frame by frame towards both ends, a
    cell takes the value its content had in the frame before; where that was beyond the frame, the middle
    frame's value at the same place. Summed over each token's frames and cells.
    """
    t, s, rows, columns = flow_TSHW2.shape[:4]
    h, w = rows // FINE, columns // FINE
    chosen = rng.choice(h * w, centres, replace=False)
    middle_HW = torch.from_numpy(_gaussians(chosen, h, w))
    flow_THW2 = torch.from_numpy(flow_TSHW2.reshape(t * s, rows, columns, 2))
    base = t * s // 2
    maps = {base: middle_HW}
    for step in (-1, 1):
        for frame in range(base + step, -1 if step < 0 else t * s, step):
            carried_HW = look_up(maps[frame - step][..., None], flow_THW2[frame], outside="zeros")[..., 0]
            maps[frame] = torch.where(carried_HW == 0, middle_HW, carried_HW)
    sums = torch.stack([maps[frame] for frame in range(t * s)]).reshape(t, s, h, FINE, w, FINE).sum((1, 3, 5))
    return np.asarray(sums.numpy())


def speeds(flow_TSHW2: Floats) -> Floats:
    """How far each token's content moves in a frame, in tokens, mean over its frames and cells: [T', h, w]."""
    t, s, rows, columns = flow_TSHW2.shape[:4]
    length = np.linalg.norm(flow_TSHW2, axis=-1) / FINE
    return np.asarray(length.reshape(t, s, rows // FINE, FINE, columns // FINE, FINE).mean((1, 3, 5)))


def _gaussians(chosen: NDArray[Any], h: int, w: int) -> Floats:
    """exp(-d^2), d the distance in tokens from a cell's middle to that of the nearest chosen token: [H, W]."""
    rows, columns = ((np.arange(side * FINE) + 0.5) / FINE - 0.5 for side in (h, w))
    y, x = np.divmod(chosen, w)
    square = (rows[:, None, None] - y) ** 2 + (columns[None, :, None] - x) ** 2
    return np.asarray(np.exp(-square.min(-1)))
