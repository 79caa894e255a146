"""Guides, one file each, named in schemas/registry.py: whatever scores the patches of a frame.

A guide knows its model and nothing of files or Ray.

Shapes: C maps (or captions) of a video, F scored frames, H x W pixels, gh x gw grid cells, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from schemas.config import Experiment, Flow, Text
from schemas.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Frames = np.ndarray[Any, np.dtype[np.uint8]]  # [F, H, W, 3] RGB


@dataclass(frozen=True)
class Scores:
    maps: Floats | None  # [C, F, gh, gw]; a high score is what a top-k mask hides; None where there are only texts
    text: Floats | None = None  # [C, D], of length 1, where the guide embeds captions
    points: bool = False  # see schemas.shards.GuideMeta


class Guide(Protocol):
    def score(self, chunks: Iterable[Any], captions: list[str]) -> Scores:
        """The maps of one video, which comes in chunks: the arrays [frames, ...] that the guide's Reader yields.

        `captions` is empty for a guide that needs none. Any exception is about this video alone, but for a
        UserError, which is about the guide.
        """
        ...


class Reader(Protocol):
    def __call__(self, data: bytes, stride: int, frames: int) -> Iterator[Any]:
        """A stored clip, the bytes of an mp4 (of Recipe.member) of so many frames, as chunks.

        Raises VideoError when it is not that.
        """
        ...


@dataclass(frozen=True)
class Recipe:
    """What the stage needs to know of a guide: travels to its workers, where `make` loads the model."""

    make: Callable[[], Guide]
    frame_stride: int  # every n-th frame has a map
    tools: list[str]  # the packages that take part, whose versions are recorded
    read: Reader | None  # None: the guide looks at no video
    holds_model: bool = True  # and so wants a GPU where there are any
    clips: Path | None = None  # another folder than that of the clips, of as many tars with the same keys
    member: str = "mp4"  # of a sample, which `read` is given


SHARDS = ["av", "webdataset"]  # packages that a guide of frames reads the clips by
Options = TypeVar("Options", Text, Flow)


def settled(options: Options, weights: str) -> Options:
    """A model folder or file by its full path: Ray's workers may run in another folder. weights: its key."""
    prefix, update = "local-dir:", {}
    if options.model.startswith(prefix):
        update["model"] = prefix + str(Path(options.model.removeprefix(prefix)).resolve())
    elif Path(getattr(options, weights)).is_file():
        update[weights] = str(Path(getattr(options, weights)).resolve())
    return options.model_copy(update=update)


def settled_text(experiment: Experiment) -> Text:
    return settled(experiment.text, "pretrained")


def checked(found: object, captions: list[str], frames: int) -> Scores:
    """What a guide returned for a video of that many scored frames, maps and text as float32.

    Raises UserError for what is no Scores or has wrong shapes or types: then the guide itself is wrong. Raises
    ValueError for an embedding that is NaN; maps are looked at when they are stored.
    """
    if not isinstance(found, Scores):
        raise UserError(f"score() returned {type(found).__name__}, not pipeline.guides.Scores")
    if found.maps is None and found.text is None:
        raise UserError("score() returned neither maps nor text")
    count = len(captions) if captions else None
    maps = _floats("maps", found.maps, (count, frames, None, None))
    text = _floats("text", found.text, (len(captions), None))
    if text is not None and not np.isfinite(text).all():
        raise ValueError("a caption's embedding is NaN or infinite: the text encoder is broken")
    return Scores(maps, text)


def _floats(name: str, array: Any, expected: tuple[int | None, ...]) -> Floats | None:
    if array is None:
        return None
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"score() returned {name} of {getattr(array, 'dtype', type(array).__name__)}, not floats")
    fits = [wanted in (None, side) for side, wanted in zip(array.shape, expected, strict=False)]
    if array.ndim != len(expected) or 0 in array.shape or not all(fits):
        shape = ", ".join("any" if wanted is None else str(wanted) for wanted in expected)
        meaning = "[maps, scored frames, rows, columns]" if name == "maps" else "[captions, width]"
        raise UserError(f"score() returned {name} of shape {list(array.shape)}, expected {meaning} = [{shape}]")
    return array.astype(np.float32)
