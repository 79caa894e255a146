"""Sources of captions, one file each. A captioner is a plain class: it knows its model and nothing of files or Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipeline.units import Row
from schemas.config import Caption
from schemas.errors import choice_error

Frame = np.ndarray[Any, np.dtype[np.uint8]]  # [H, W, 3] RGB


@runtime_checkable
class FrameCaptioner(Protocol):
    """Says what a picture shows. `batch_size` frames at a time are best for it."""

    batch_size: int

    def caption(self, frames: list[Frame]) -> list[str]:
        """One text a frame, in order; "" where the model said nothing.

        Raises UserError when the model itself is unusable; any other exception is about these frames.
        """
        ...


@runtime_checkable
class RowCaptioner(Protocol):
    """Knows the texts of a video from its row of the manifest alone: nothing is decoded."""

    def describe(self, row: Row) -> list[str]:
        """Raises ValueError, with the reason, for a video that it has no text for."""
        ...


Captioner = FrameCaptioner | RowCaptioner


def _blip2(caption: Caption) -> Captioner:
    from pipeline.captioners.blip2 import Blip2Captioner  # transformers takes seconds to import

    return Blip2Captioner(caption.blip2)


def _oracle(caption: Caption) -> Captioner:
    from pipeline.captioners.oracle import OracleCaptioner

    return OracleCaptioner(caption.oracle)


SOURCES: dict[str, Callable[[Caption], Captioner]] = {"blip2": _blip2, "oracle": _oracle}


def make_captioner(source: str, caption: Caption) -> Captioner:
    """Loads the captioner of that name. Raises UserError for an unknown name or a model that cannot be loaded."""
    if source not in SOURCES:
        raise choice_error("caption source", source, SOURCES)
    return SOURCES[source](caption)


def keyframe_indices(frames: int, count: int) -> list[int]:
    """The midpoints of `count` equal parts of a video (or segment) of `frames` frames (section 3.2).

    One keyframe is the centre frame; a video of fewer frames than `count` gives each of its frames once.
    """
    if frames < 1 or count < 1:
        raise ValueError(f"{count} keyframes of {frames} frames: both must be at least 1")
    return sorted({(2 * part + 1) * frames // (2 * count) for part in range(count)})
