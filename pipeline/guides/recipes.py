"""How the guide that an experiment names is made and fed: of schemas/registry.py, or a class of one's own."""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np

from pipeline.guides import SHARDS, Recipe, custom, settled, settled_text
from pipeline.guides.frames import CHUNK, scored_frames
from pipeline.runtime.batch_size import WORTH, found_size, meter_of
from pipeline.runtime.engine import once
from pipeline.runtime.units import Row
from schemas.config import CROPS_AT_ONCE, PAIRS_AT_ONCE, Experiment, Flow, Text
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


def with_batch_size(experiment: Experiment, section: str, manifest: list[Row], clips: list[Row]) -> Experiment:
    """The experiment with a batch size for `section`, text or flow, which leaves it to a GPU: found by a worker.

    Raises UserError when the model cannot be loaded or Ray has no room for it.
    """
    options = settled_text(experiment) if section == "text" else settled(experiment.flow, "weights")
    size = CROPS_AT_ONCE if section == "text" else PAIRS_AT_ONCE
    compiled = isinstance(options, Text) and options.compile  # each size anew, for minutes
    if sum(row["frames"] for row in clips) >= WORTH * options.frame_stride and not compiled:
        sides = [(row["height"], row["width"]) for row in manifest]
        stored = [[round(side * min(1, experiment.shard.short_side / min(pair))) for side in pair] for pair in sides]
        height, width = max(stored, key=prod)
        size = once(partial(_found, options, (CHUNK, height, width, 3)), experiment.ray)
    return experiment.model_copy(update={section: options.model_copy(update={"batch_size": size})})


def _found(options: Text | Flow, shape: tuple[int, ...], share: float) -> int:
    """On chunks as the guide gets them, of the largest clip."""
    meter, text = meter_of(options.device, share), isinstance(options, Text)
    if meter is None:
        return CROPS_AT_ONCE if text else PAIRS_AT_ONCE
    frames_FHW3 = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if isinstance(options, Flow):
        from pipeline.guides.raft import Raft

        raft = Raft(options)
        return found_size(raft, lambda size: len(raft(frames_FHW3[:-1], frames_FHW3[1:])), PAIRS_AT_ONCE, meter)
    from pipeline.guides.encoder import TextEncoder

    encoder = TextEncoder(options)
    return found_size(encoder.cells, lambda size: len(encoder.features(frames_FHW3)), CROPS_AT_ONCE, meter)
