"""The frames of a video that are captioned. Light to import: a process of its own decodes them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from pipeline.media.decoding import Placed, read_placed


@dataclass(frozen=True)
class Wanted:
    """Keyframes of a video, or of a segment of it."""

    path: Path
    keyframes: int
    seed: int | None
    expected: int  # frames
    start: float | None  # seconds
    end: float | None


def placed_keyframes(wanted: Wanted) -> list[Placed]:
    """Each keyframe, placed among the frames that there really are. Raises VideoError."""
    return read_placed(
        wanted.path,
        lambda count: keyframe_indices(count, wanted.keyframes, wanted.seed),
        expected=wanted.expected,
        start=wanted.start,
        end=wanted.end,
    )


def keyframe_indices(frames: int, count: int, seed: int | None = None) -> list[int]:
    """Which frames of a video (or segment) of `frames` frames are captioned, in order.

    The midpoints of `count` equal parts (section 3.2), so that one keyframe is the centre frame; with a seed,
    `count` different frames drawn at random. A video of fewer frames than `count` gives each of its frames once.
    """
    if frames < 1 or count < 1:
        raise ValueError(f"{count} keyframes of {frames} frames: both must be at least 1")
    if seed is not None:
        return sorted(random.Random(seed).sample(range(frames), min(count, frames)))
    return sorted({(2 * part + 1) * frames // (2 * count) for part in range(count)})
