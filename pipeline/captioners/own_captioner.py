"""A captioner of one's own, module:ClassName (docs/captions.md): looks at frames, as blip2 does."""

from __future__ import annotations

from typing import Any

from pipeline.captioners import Frame
from pipeline.runtime.own_class import OwnClass, Source
from schemas.config import Experiment
from schemas.errors import UserError

BATCH = 32  # frames


def own(source: str) -> OwnClass:
    return OwnClass("captions", source, "caption(frames)", "docs/captions.md")


class OwnCaptioner:
    """Holds an instance of the class, and looks at what it returns."""

    def __init__(self, source: str, known: Source, experiment: Experiment) -> None:
        self._name, self._captioner = source, own(source).make(known, experiment)
        size: Any = getattr(self._captioner, "batch_size", BATCH)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UserError(f"captions = {source!r}: batch_size is {size!r}, not a number of frames")
        self.batch_size = size

    def caption(self, frames: list[Frame]) -> list[str]:
        """Raises UserError for what is not a text a frame: then the captioner itself is wrong."""
        found: Any = self._captioner.caption(frames)
        if not isinstance(found, list | tuple) or not all(isinstance(text, str) for text in found):
            raise UserError(f"captions = {self._name!r}: caption() returned {type(found).__name__}, not a list of str")
        if len(found) != len(frames):
            raise UserError(f"captions = {self._name!r}: caption() returned {len(found)} texts of {len(frames)} frames")
        return list(found)
