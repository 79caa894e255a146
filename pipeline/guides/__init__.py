"""Guides, one file each: whatever scores the patches of a frame. A guide knows its model and nothing of files or Ray.

Shapes: C maps (captions) of a video, F scored frames, H x W pixels, gh x gw grid cells, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from schemas.config import Experiment
from schemas.errors import choice_error

Floats = np.ndarray[Any, np.dtype[np.float32]]
Frames = np.ndarray[Any, np.dtype[np.uint8]]  # [F, H, W, 3] RGB


@dataclass(frozen=True)
class Scores:
    maps: Floats  # [C, F, gh, gw]; a high score is what a top-k mask hides
    text: Floats  # [C, D], of length 1


class Guide(Protocol):
    def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
        """The maps of one video, whose scored frames come in chunks. Any exception is about this video alone,
        but for a UserError, which is about the guide."""
        ...


def _text(experiment: Experiment) -> Guide:
    from pipeline.guides.encoder import TextEncoder  # open_clip takes seconds to import
    from pipeline.guides.text import TextGuide

    return TextGuide(TextEncoder(experiment.text))


GUIDES: dict[str, Callable[[Experiment], Guide]] = {"text": _text}


def make_guide(experiment: Experiment) -> Guide:
    """Loads the guide that `experiment.guide` names. Raises UserError when there is none or its model cannot load."""
    if experiment.guide not in GUIDES:
        raise choice_error("guide", experiment.guide, GUIDES)
    return GUIDES[experiment.guide](experiment)
