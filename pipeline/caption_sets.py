"""Which captioner makes a set: of frames, or of what is known without looking, with what is stored next to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.captioners import FrameCaptioner, RowSource
from pipeline.captioners.own_captioner import OwnCaptioner, own
from pipeline.runtime.units import Row
from pipeline.stage_specs import mixed
from schemas.config import Caption, Experiment, caption_source
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
    return UNKNOWN if batch_size is None else group_videos(caption.keyframes, batch_size)
