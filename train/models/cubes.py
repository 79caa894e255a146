"""Clips cut into cubes, the layout that the embedding and the reconstruction target share.

Shape suffixes: B clips, T frames, H rows, W columns, C channels; N tokens of a clip, ordered
(time, row, column); M chosen ones of them; K values of one cube, ordered (frame, row, column,
channel), channel fastest: "(t p0)(h p1)(w p2) c -> (t h w) (p0 p1 p2 c)" of VideoMAE's engine.
"""

from typing import Literal

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def cubes_from_clip(clip: Tensor, patch_size: int, tubelet: int, layout: Literal["BTHWC", "BCTHW"] = "BTHWC") -> Tensor:
    """Cut a clip into cubes [B, N, K] of its own dtype, in the order of the reconstruction target.

    Errors: ValueError when a side of the clip is not a multiple of the cube's.
    """
    if clip.ndim != 5:
        raise ValueError(f"a clip has 5 axes ({layout}), this one has shape {tuple(clip.shape)}")
    if layout == "BCTHW":
        clip = clip.permute(0, 2, 3, 4, 1)
    b, t, h, w, c = clip.shape
    if t % tubelet or h % patch_size or w % patch_size:
        raise ValueError(f"{t} frames of {h} x {w} cannot be cut into cubes of {tubelet} x {patch_size} x {patch_size}")
    p = patch_size
    split = clip.reshape(b, t // tubelet, tubelet, h // p, p, w // p, p, c)
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, -1, tubelet * p * p * c)


def clip_from_cubes(cubes_BNK: Tensor, grid: tuple[int, int, int], patch_size: int, tubelet: int) -> Tensor:
    """The inverse of cubes_from_clip, for pictures: [B, N, K] and its (t, h, w) to [B, T, H, W, C]."""
    (t, h, w), p = grid, patch_size
    split = cubes_BNK.reshape(-1, t, h, w, tubelet, p, p, cubes_BNK.shape[-1] // (tubelet * p * p))
    joined = split.permute(0, 1, 4, 2, 5, 3, 6, 7)
    return joined.reshape(-1, t * tubelet, h * p, w * p, joined.shape[-1])


def _channel_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """ImageNet mean and standard deviation, repeated along a channel-fastest last axis."""
    repeat, rest = divmod(pixels.shape[-1], 3)
    if rest:
        raise ValueError(f"ImageNet normalisation needs 3 channels, the last axis has {pixels.shape[-1]} values")
    # Filled on the device: copying three numbers to a GPU would wait for all its work.
    mean, std = (
        torch.stack([torch.full((), v, device=pixels.device) for v in values]).repeat(repeat)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return mean, std


def normalise(pixels: Tensor) -> Tensor:
    """uint8 pixels, or floating ones in [0, 1], to float32 with ImageNet's mean and deviation removed."""
    mean, std = _channel_statistics(pixels)
    return (to_unit(pixels) - mean) / std


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels to float32 in [0, 1]; floating ones, taken to be in [0, 1] already, to float32."""
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if not pixels.is_floating_point():
        raise ValueError(f"pixels are uint8 or floating, these are {pixels.dtype}")
    return pixels.float()


def unnormalise(pixels: Tensor) -> Tensor:
    """The inverse of normalise: float32 pixels in [0, 1]."""
    mean, std = _channel_statistics(pixels)
    return pixels.float() * std + mean


def gather_tokens(x_BNK: Tensor, index_BM: Tensor) -> Tensor:
    """Row-wise selection of tokens: [B, N, K] and int64 [B, M] to [B, M, K]."""
    return x_BNK.gather(1, index_BM.unsqueeze(-1).expand(-1, -1, x_BNK.shape[-1]))
