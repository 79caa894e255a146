"""How each guide is made and fed, by its name in the config. Libraries are imported where a model is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from pipeline.guides import Guide, Recipe, custom
from pipeline.guides.cache import MEMBER, CachedFeatures
from pipeline.guides.frames import scored_frames
from pipeline.guides.guide_identity import cached, features_name
from pipeline.guides.motion import CodecMotion, MotionGuide
from schemas.config import Experiment, Flow, Text
from schemas.errors import choice_error
from schemas.workspace import Workspace

Options = TypeVar("Options", Text, Flow)
SHARDS = ["av", "webdataset"]
ENCODER = ["open_clip_torch", "torch"]


def recipe(experiment: Experiment) -> Recipe:
    """Of the guide that `experiment.guide` names. Raises UserError when there is none, or a class cannot be loaded."""
    if experiment.guide in RECIPES:
        return RECIPES[experiment.guide](experiment)
    if ":" not in experiment.guide:
        raise choice_error("guide", experiment.guide, RECIPES)
    settled = experiment.model_copy(update={"text": settled_text(experiment)})
    own = custom.own(experiment.guide)
    make = partial(custom.make, experiment.guide, own.source(), settled)
    return Recipe(make, experiment.text.frame_stride, [*own.tools(), *SHARDS], scored_frames)


def _text(experiment: Experiment) -> Recipe:
    text = settled_text(experiment)
    if not cached(experiment):
        return Recipe(partial(_make_text, text), text.frame_stride, [*ENCODER, *SHARDS], scored_frames)
    features = Workspace(Path(experiment.workspace)).features(features_name(text)).resolve()
    make, read = partial(_make_cached_text, text), CachedFeatures(features)
    return Recipe(make, text.frame_stride, [*ENCODER, "webdataset"], read, clips=features, member=MEMBER)


def _embeddings(experiment: Experiment) -> Recipe:
    text = settled_text(experiment)
    return Recipe(partial(_make_embeddings, text), 1, [*ENCODER, "webdataset"], None)


def _motion(experiment: Experiment) -> Recipe:
    motion = experiment.motion
    read = CodecMotion(motion.patch)
    return Recipe(partial(MotionGuide, motion), motion.frame_stride, ["numpy", *SHARDS], read, holds_model=False)


def _flow(experiment: Experiment, make: Callable[[Flow], Guide]) -> Recipe:
    flow = _settled(experiment.flow, "weights")
    raft = flow.engine == "raft"
    tools = ["torch", "torchvision"] if raft else ["opencv-python-headless"]
    return Recipe(partial(make, flow), flow.frame_stride, [*tools, *SHARDS], scored_frames, holds_model=raft)


def _make_text(text: Text) -> Guide:
    from pipeline.guides.encoder import TextEncoder  # open_clip takes seconds to import
    from pipeline.guides.text import TextGuide

    return TextGuide(TextEncoder(text))


def _make_cached_text(text: Text) -> Guide:
    from pipeline.guides.encoder import TextEncoder
    from pipeline.guides.text import CachedTextGuide

    return CachedTextGuide(TextEncoder(text))


def _make_embeddings(text: Text) -> Guide:
    from pipeline.guides.encoder import TextEncoder
    from pipeline.guides.text import EmbeddingsGuide

    return EmbeddingsGuide(TextEncoder(text))


def _make_optical_flow(flow: Flow) -> Guide:
    from pipeline.guides.flow import OpticalFlowGuide
    from pipeline.guides.flow_engines import make_engine

    return OpticalFlowGuide(make_engine(flow), flow)


def _make_flow_magnitude(flow: Flow) -> Guide:
    from pipeline.guides.flow import FlowMagnitudeGuide
    from pipeline.guides.flow_engines import make_engine

    return FlowMagnitudeGuide(make_engine(flow), flow)


RECIPES: dict[str, Callable[[Experiment], Recipe]] = {
    "text": _text,
    "embeddings": _embeddings,
    "motion-vectors": _motion,
    "optical-flow": partial(_flow, make=_make_optical_flow),
    "flow-magnitude": partial(_flow, make=_make_flow_magnitude),
}


def settled_text(experiment: Experiment) -> Text:
    return _settled(experiment.text, "pretrained")


def _settled(options: Options, weights: str) -> Options:
    """A model folder or file by its full path: Ray's workers may run in another folder."""
    prefix, update = "local-dir:", {}
    if options.model.startswith(prefix):
        update["model"] = prefix + str(Path(options.model.removeprefix(prefix)).resolve())
    elif Path(getattr(options, weights)).is_file():
        update[weights] = str(Path(getattr(options, weights)).resolve())
    return options.model_copy(update=update)
