"""The view of a video that pictures and measurements share: its middle clip, cropped in the centre, with its scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.config import Experiment
from schemas.shards import ClipMeta, guide_meta, npy_array
from schemas.workspace import Workspace
from train.augment import Crop, centre_crop, clip_scores
from train.sampling import spread_frames
from train.stream import read_clip, read_members
from train.videos import open_videos

Array = NDArray[Any]


@dataclass(frozen=True)
class View:
    """T frames of a clip, T' time slices, h x w the token grid, C captions."""

    key: str
    meta: ClipMeta
    frames_T: NDArray[np.int64]
    crop: Crop
    captions: list[str]
    scores_CTHW: Array  # float64 [C, T', h, w]
    mp4: bytes


def token_grid(experiment: Experiment) -> tuple[int, int, int]:
    """(T', h, w)"""
    clip, model = experiment.clip, experiment.model
    return clip.frames // model.tubelet, clip.size // model.patch, clip.size // model.patch


def guided_views(experiment: Experiment, rows: list[int] | None = None) -> Iterator[View]:
    """The views of all videos (or of these rows of the index) that have score maps, in the order of the index."""
    clip, grid = experiment.clip, token_grid(experiment)
    videos = open_videos(Workspace(Path(experiment.workspace)), experiment.guide_name)
    for row in range(len(videos)) if rows is None else rows:
        if not videos.maps(row):
            continue
        meta, mp4 = read_clip(videos.clip_place(row))
        frames_T = spread_frames(meta.frames, frames=clip.frames, stride=clip.stride, views=1)[0]
        crop = centre_crop(meta.width, meta.height)
        place = videos.guide_place(row)
        members = read_members(place, ("json", "scores.npy"))
        guide = guide_meta(members["json"], str(place))
        maps = [
            clip_scores(stored_FHW, frames_T, crop, frame_stride=guide.frame_stride, grid=grid)
            for stored_FHW in npy_array(members["scores.npy"])
        ]
        yield View(place.key, meta, frames_T, crop, guide.captions, np.stack(maps), mp4)
