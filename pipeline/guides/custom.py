"""A guide of one's own, module:ClassName (docs/custom_guides.md)."""

from __future__ import annotations

from typing import Any

from pipeline.guides import Guide
from pipeline.runtime.own_class import OwnClass, Source
from schemas.config import Experiment
from schemas.errors import UserError


def own(guide: str) -> OwnClass:
    return OwnClass("guide", guide, "score(chunks, captions)", "docs/custom_guides.md")


def needs_captions(guide: str) -> bool:
    """Raises UserError for a class that cannot be loaded, or does not say it with True or False."""
    own(guide).source()
    needs = getattr(own(guide).load(), "needs_captions", False)
    if not isinstance(needs, bool):
        raise UserError(f"guide = {guide!r}: needs_captions is {needs!r}, neither True nor False")
    return needs


def identity(experiment: Experiment) -> dict[str, Any]:
    """What determines the scores: the class, and what is scored."""
    needs_captions(experiment.guide)
    text = {"patch": experiment.text.patch, "frame_stride": experiment.text.frame_stride}
    return {"guide": experiment.guide, **text, **own(experiment.guide).identity(experiment)}


def make(name: str, known: Source, experiment: Experiment) -> Guide:
    guide: Guide = own(name).make(known, experiment)
    return guide
