"""The guides of optical flow: optical-flow stores it for the trainer, flow-magnitude ranks patches by it.

MGMAE (Huang et al. 2023) carries a random map along the flow of the augmented clip; here the flow of the whole frame is
stored once, on a grid, between scored frames, and the trainer gives it the clip's crop (train/data/clip_flow.py).

Shapes: F scored frames, N pairs of frames, H x W pixels, gh x gw grid cells; 2: (x, y), pixels of the stored frame to
the right and downwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

import numpy as np

from pipeline.guides import SHARDS, Floats, Frames, Guide, Recipe, Scores, settled
from pipeline.guides.frames import scored_frames
from pipeline.guides.grid import area_mean, grid
from schemas.config import Experiment, Flow


class Engine(Protocol):
    def __call__(self, from_NHW3: Frames, to_NHW3: Frames) -> Floats:
        """Where the content of each pixel of the first frames is in the second ones, relative to it: [N, H, W, 2]."""
        ...


def optical_flow_recipe(experiment: Experiment) -> Recipe:
    return _recipe(experiment, _make_optical_flow)


def flow_magnitude_recipe(experiment: Experiment) -> Recipe:
    return _recipe(experiment, _make_flow_magnitude)


def _recipe(experiment: Experiment, make: Callable[[Flow], Guide]) -> Recipe:
    flow = settled(experiment.flow, "weights")
    raft = flow.engine == "raft"
    tools = ["torch", "torchvision"] if raft else ["opencv-python-headless"]
    return Recipe(partial(make, flow), flow.frame_stride, [*tools, *SHARDS], scored_frames, holds_model=raft)


def _make_optical_flow(flow: Flow) -> Guide:
    from pipeline.guides.flow_engines import make_engine

    return OpticalFlowGuide(make_engine(flow), flow)


def _make_flow_magnitude(flow: Flow) -> Guide:
    from pipeline.guides.flow_engines import make_engine

    return FlowMagnitudeGuide(make_engine(flow), flow)


class OpticalFlowGuide:
    def __init__(self, engine: Engine, options: Flow) -> None:
        self._engine, self._options = engine, options

    def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
        """Four maps [F, gh, gw]: next x, next y, previous x, previous y.

        Map f of `next` is the displacement of the content from scored frame f to f + 1, zero in the last;
        `previous` that from f to f - 1, zero in the first. Each is the mean over a cell.
        """
        next_F2, previous_F2 = flows(self._engine, chunks, self._options.patch)
        return Scores(np.concatenate((next_F2, previous_F2), axis=1).transpose(1, 0, 2, 3))


class FlowMagnitudeGuide:
    def __init__(self, engine: Engine, options: Flow) -> None:
        self._engine, self._options = engine, options

    def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
        """One map: pixels per scored step, the mean of what optical-flow stores of both directions, where there are."""
        lengths: list[Floats] = []
        for flow_F2 in flows(self._engine, chunks, self._options.patch):
            if self._options.remove_camera:
                flow_F2 = flow_F2 - np.median(flow_F2, axis=(2, 3), keepdims=True)
            lengths.append(np.hypot(flow_F2[:, 0], flow_F2[:, 1]))
        next_F, previous_F = lengths
        if len(next_F) > 1:  # the first frame has only a next one, the last only a previous one
            next_F[-1], previous_F[0] = previous_F[-1], next_F[0]
        return Scores(np.stack((next_F, previous_F)).mean(0, keepdims=True))


def flows(engine: Engine, chunks: Iterable[Frames], patch: int) -> tuple[Floats, Floats]:
    """(next, previous), float32 [F, 2, gh, gw] each, of the frames that come in chunks; frames are not kept.

    No further than the frame is wide or high: what an engine finds beyond is wrong, and one such pixel would cost
    the stored map its precision.
    """
    nexts: list[Floats] = []
    previous: list[Floats] = []
    shape = (0, 0)
    for frames_FHW3 in _overlapping(chunks):
        height, width = frames_FHW3.shape[1:3]
        shape, limits_2 = grid(height, width, patch), np.asarray((width, height), np.float32)
        for found, pair in (
            (nexts, (frames_FHW3[:-1], frames_FHW3[1:])),
            (previous, (frames_FHW3[1:], frames_FHW3[:-1])),
        ):
            if len(pair[0]):
                flow_NHW2 = engine(*pair).clip(-limits_2, limits_2)
                found.append(area_mean(flow_NHW2.transpose(0, 3, 1, 2), *shape))
    none = np.zeros((1, 2, *shape), np.float32)
    return np.concatenate([*nexts, none]), np.concatenate([none, *previous])


def _overlapping(chunks: Iterable[Frames]) -> Iterator[Frames]:
    """Each chunk begins with the last frame of the one before."""
    last: Frames | None = None
    for chunk in chunks:
        yield chunk if last is None else np.concatenate((last, chunk))
        last = chunk[-1:]
    if last is None:
        raise ValueError("no frame to follow")
