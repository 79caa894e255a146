"""Pictures whose motion is known, drawn for the tests of motion and flow."""

from __future__ import annotations

from typing import Any

import av
import numpy as np

from pipeline.media.encoding import encode
from schemas.config import Shard

SIZE = (96, 128)  # height, width


def texture(height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """uint8 [H, W, 3]: blots of a few pixels, which an encoder can follow."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    reach = np.exp(-(np.arange(-6, 7) ** 2) / 8.0)
    for axis in (0, 1):
        noise = np.apply_along_axis(np.convolve, axis, noise, reach, "same")
    return np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)


def panned(frames: int, dx: int, dy: int, size: tuple[int, int] = SIZE) -> list[np.ndarray[Any, Any]]:
    """A texture of which everything moves by (dx, dy) pixels a frame."""
    room = frames * max(abs(dx), abs(dy))
    wide = texture(size[0] + 2 * room, size[1] + 2 * room)
    corners = [(room - dy * t, room - dx * t) for t in range(frames)]
    return [wide[top : top + size[0], left : left + size[1]] for top, left in corners]


def mp4(pictures: Any, **options: Any) -> bytes:
    frames = [av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24") for picture in pictures]
    return encode(frames, 12.0, Shard(**{"gop": 6, "crf": 18, **options})).data
