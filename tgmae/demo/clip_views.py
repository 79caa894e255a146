"""The view of a video that pictures and measurements share: its middle clip, cropped in the centre, with its scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.config import Experiment
from schemas.shards import ClipMeta
from schemas.workspace import Workspace
from train.data.augment import Crop, centre_crop
from train.data.reading import read_clip, read_guidance
from train.data.sampling import spread_frames
from train.data.videos import open_videos
from train.masking.carried_map import speeds

Array = NDArray[Any]


@dataclass(frozen=True)
class View:
    """T frames of a clip, T' time slices of S frames, h x w the token grid, C captions.

    H, W and 2 are those of train/data/clip_flow.py.
    """

    key: str
    meta: ClipMeta
    frames_T: NDArray[np.int64]
    crop: Crop
    captions: list[str]  # none where the guide has no text
    scores_CTHW: Array  # float64 [C, T', h, w], one map a caption; of a flow, its speed
    flow_TSHW2: Array | None  # where the guide is a flow
    mp4: bytes


def token_grid(experiment: Experiment) -> tuple[int, int, int]:
    """(T', h, w)"""
    clip, model = experiment.clip, experiment.model
    return clip.frames // model.tubelet, clip.size // model.patch, clip.size // model.patch


def guided_views(experiment: Experiment, rows: list[int] | None = None) -> Iterator[View]:
    """The views of all videos (or of these rows of the index) that have score maps, in the order of the index."""
    clip, grid = experiment.clip, token_grid(experiment)
    videos = open_videos(Workspace(Path(experiment.workspace)), experiment.guide_name)
    sidecar = videos.sidecar(experiment.guide_name)
    for row in range(len(videos)) if rows is None else rows:
        if not sidecar.entries(row):
            continue
        meta, mp4 = read_clip(videos.clip_place(row))
        frames_T = spread_frames(meta.frames, frames=clip.frames, stride=clip.stride, views=1)[0]
        crop = centre_crop(meta.width, meta.height)
        guide = read_guidance(sidecar, row, meta, ("scores.npy",))
        flow_TSHW2 = guide.flow(frames_T, crop, grid) if experiment.guide == "optical-flow" else None
        maps = (
            [speeds(flow_TSHW2)]
            if flow_TSHW2 is not None
            else [guide.scores(entry, frames_T, crop, grid) for entry in range(guide.entries)]
        )
        yield View(guide.place.key, meta, frames_T, crop, guide.meta.captions, np.stack(maps), flow_TSHW2, mp4)
