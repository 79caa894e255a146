"""The grid of a map: cells that divide a frame evenly, and means over them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.guides import Floats


def grid(height: float, width: float, patch: int) -> tuple[int, int]:
    """Cells along each side of a frame: the nearest whole number, halves up, at least one."""
    return max(1, math.floor(height / patch + 0.5)), max(1, math.floor(width / patch + 0.5))


def overlaps(length: int, cells: int, unit: int = 1) -> Floats:
    """How much of each unit of so many pixels lies in each cell of a side: float32 pixels [cells, units].

    The last unit is cut short where `length` is not a multiple of it.
    """
    edges = np.linspace(0, length, cells + 1)
    units = np.minimum(np.arange(-(-length // unit) + 1) * unit, length)
    shared = np.minimum(edges[1:, None], units[1:]) - np.maximum(edges[:-1, None], units[:-1])
    return shared.clip(0).astype(np.float32)


def area_mean(field_HW: np.ndarray[Any, Any], gh: int, gw: int) -> Floats:
    """[..., H, W] -> float32 [..., gh, gw]: the mean over each cell's area, cells not being whole pixels."""
    height, width = field_HW.shape[-2:]
    mean: Floats = overlaps(height, gh) @ field_HW.astype(np.float32) @ overlaps(width, gw).T
    return mean * np.float32(gh * gw / (height * width))
