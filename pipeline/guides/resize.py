"""Resizing as Pillow does it, for many images at once and on any device.

CLIP's preprocessing resizes with Pillow: filters that widen when shrinking (antialias), one pass along each row and
one along each column, each rounded to whole levels. As matrices that is two products, and the crops of a frame,
all of one size, share the matrices. (Pillow 13 takes columns first where that is less work; crops are square.)
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F


def resize(images_N3HW: torch.Tensor, height: int, width: int, mode: str = "bicubic") -> torch.Tensor:
    """float32 levels 0..255 [N, 3, H, W] -> whole levels of the same kind [N, 3, height, width]."""
    device = images_N3HW.device
    if width != images_N3HW.shape[3]:
        rows = filter_matrix(images_N3HW.shape[3], width, mode, device)
        images_N3HW = _levels(images_N3HW @ rows.T)
    if height != images_N3HW.shape[2]:
        columns = filter_matrix(images_N3HW.shape[2], height, mode, device)
        images_N3HW = _levels(columns @ images_N3HW)
    return images_N3HW


def _levels(images: torch.Tensor) -> torch.Tensor:
    return images.add_(0.5).floor_().clamp_(0, 255)  # halves up, as Pillow


@lru_cache(maxsize=64)
def filter_matrix(source: int, target: int, mode: str, device: torch.device) -> torch.Tensor:
    """float32 [target, source]: what each pixel of a resized line takes from the pixels of the line."""
    eye_1SS = torch.eye(source)[None, None]
    return F.interpolate(eye_1SS, size=(target, source), mode=mode, antialias=True)[0, 0].to(device)
