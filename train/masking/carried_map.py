"""A random map carried along the flow: what MGMAE's mask leaves visible (Huang et al. 2023).

Everything is done on a grid of FINE x FINE cells a token instead of on pixels; docs/masks.md says what that changes.

Shape suffixes: T' time slices of S frames; H rows, W columns of cells (FINE a token's side), h x w of tokens;
2: (x, y), in cells.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Floats = NDArray[np.float64]
FINE = 4  # cells of a token's side: 4 pixels of a 16-pixel patch


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
