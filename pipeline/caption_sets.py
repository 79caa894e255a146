"""Which captioner makes a set: of frames, or of what is known without looking, with what is stored next to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.captioners import FrameCaptioner, RowSource
from pipeline.captioners.own_captioner import OwnCaptioner, own
from pipeline.runtime.batch_size import WORTH, found_size, meter_of
from pipeline.runtime.engine import once
from pipeline.runtime.units import Row
from pipeline.stage_specs import mixed
from schemas.config import FRAMES_AT_ONCE, Blip2, Caption, Experiment, Section, caption_source
from schemas.registry import FRAME_CAPTIONERS, ROW_CAPTIONERS
from schemas.workspace import Workspace

FULL = 0.9  # of its batches' room, at least, is filled by a group of videos
UNKNOWN = 32  # videos of a group, where the batch size is known to the captioner alone


def captioner_maker(source: str, experiment: Experiment) -> Callable[[], FrameCaptioner]:
    """Loads the captioner of frames, where it is called: travels to the workers.

    Raises UserError when the file of a class of one's own is missing.
    """
    if ":" in source:
        return partial(OwnCaptioner, source, own(source).source(), experiment)
    return partial(_made, source, experiment)


def _made(source: str, experiment: Experiment) -> FrameCaptioner:
    captioner: FrameCaptioner = FRAME_CAPTIONERS[source](getattr(experiment.caption, source))
    return captioner


def source_tools(source: str) -> list[str]:
    """The packages whose versions the record of a set names."""
    if ":" in source and "+" not in source:
        return [*own(source).tools(), "av"]
    return ["av"] if source == "lavis" else ["transformers", "torch", "av"]


def row_source(experiment: Experiment, manifest: list[Row]) -> RowSource | None:
    """The captioner of a set that needs no frames, ready to describe; None for a set that does.

    Raises UserError when the source cannot be read or asked.
    """
    workspace, name = Workspace(Path(experiment.workspace)), experiment.captions
    if "+" in name:
        from pipeline.captioners.mix import MixCaptioner

        weights = experiment.caption.mix.weights
        return RowSource(MixCaptioner({part: workspace.captions(part) for part in mixed(name)}, weights))
    source = caption_source(name)
    if source not in ROW_CAPTIONERS:
        return None
    found: RowSource = ROW_CAPTIONERS[source](experiment, manifest)
    return found


def group_videos(keyframes: int, batch_size: int) -> int:
    """The fewest videos whose frames fill their batches well."""
    count = max(1, batch_size // keyframes)
    while count * keyframes < FULL * batch_size * -(-count * keyframes // batch_size):
        count += 1
    return count


def caption_group(source: str, caption: Caption) -> int:
    """Videos whose frames share batches: what a shard may be parted into."""
    batch_size = getattr(getattr(caption, source, None), "batch_size", None)
    return UNKNOWN if batch_size is None else group_videos(caption.keyframes, batch_size or FRAMES_AT_ONCE)


def with_batch_size(
    source: str, experiment: Experiment, manifest: list[Row], runtime_env: Mapping[str, Any] | None
) -> Experiment:
    """The experiment with a batch size for a captioner that leaves it to a GPU: found by a worker.

    Raises UserError when the model cannot be loaded or Ray has no room for it.
    """
    size, options = FRAMES_AT_ONCE, getattr(experiment.caption, source)
    if len(manifest) * experiment.caption.keyframes >= WORTH:
        largest = max(((row["height"], row["width"], 3) for row in manifest), key=prod)
        size = once(partial(_found, source, experiment, largest), experiment.ray, runtime_env=runtime_env)
    return _with_options(experiment, source, options.model_copy(update={"batch_size": size}))


def _found(source: str, experiment: Experiment, shape: tuple[int, int, int], share: float) -> int:
    """On captions of full length, of pictures as large as the largest video."""
    options = getattr(experiment.caption, source)
    meter = meter_of(options.device, share)
    if meter is None:
        return FRAMES_AT_ONCE
    if isinstance(options, Blip2):
        options = options.model_copy(update={"min_new_tokens": options.max_new_tokens})
    captioner = captioner_maker(source, _with_options(experiment, source, options))()
    frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return found_size(captioner, lambda size: len(captioner.caption([frame] * size)), FRAMES_AT_ONCE, meter)


def _with_options(experiment: Experiment, source: str, options: Section) -> Experiment:
    caption = experiment.caption.model_copy(update={source: options})
    return experiment.model_copy(update={"caption": caption})
