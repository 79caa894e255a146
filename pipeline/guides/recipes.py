"""How the guide that an experiment names is made and fed: of schemas/registry.py, or a class of one's own."""

from __future__ import annotations

from functools import partial

from pipeline.guides import SHARDS, Recipe, custom, settled_text
from pipeline.guides.frames import scored_frames
from schemas.config import Experiment
from schemas.registry import GUIDES


def recipe(experiment: Experiment) -> Recipe:
    """Of the guide that `experiment.guide` names. Raises UserError when there is none, or a class cannot be loaded."""
    if ":" not in experiment.guide:
        found: Recipe = GUIDES[experiment.guide](experiment)
        return found
    settled = experiment.model_copy(update={"text": settled_text(experiment)})
    own = custom.own(experiment.guide)
    make = partial(custom.make, experiment.guide, own.source(), settled)
    return Recipe(make, experiment.text.frame_stride, [*own.tools(), *SHARDS], scored_frames)
