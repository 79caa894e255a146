"""Multi-view testing: several clips of each video, and the mean of what the classifier says of them.

VideoMAE's arithmetic (its engine_for_finetuning.py): softmax of each view, mean of the probabilities. Nothing is
drawn, and what belongs together is computed together on any number of processes, so the numbers
depend on neither chance nor machines: a video is predicted once, by one process.

Shape suffixes: S videos, V views of a video, time first, then places; T frames, H rows, W columns,
C channels; P probabilities, head after head (train/data/classes.py).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from schemas.config import Clip, Experiment
from schemas.errors import UserError
from train.data.reading import decode, read_clip
from train.data.stream import Failure
from train.data.videos import Place, Videos

Ints = NDArray[np.int64]


def dense_views(total: int, *, frames: int, stride: int, views: int) -> Ints:
    """Frame numbers of evenly spaced clips, int64 [views, frames].

    The video's every `stride`-th frame, its last repeated up to one clip; of these the clips that begin at
    int(v * room / (views - 1)). A single clip, which VideoMAE cannot test, is the middle one.
    """
    found = np.arange(0, total, stride)
    found = np.concatenate((found, np.repeat(found[-1:], max(frames - len(found), 0))))
    room = len(found) - frames
    starts = [room // 2] if views == 1 else [int(view * (room / (views - 1))) for view in range(views)]
    return np.stack([found[start : start + frames] for start in starts])


def segment_views(total: int, *, frames: int, views: int) -> Ints:
    """One frame of each of `frames` equal parts, int64 [views, frames]; view v takes it at v / views of the part.

    For VideoMAE's two views: the beginnings of the parts, and their centres. A single view: the centres.
    """
    tick = total / frames
    places = [tick / 2] if views == 1 else [tick * view / views for view in range(views)]
    return np.asarray([[int(place + tick * part) for part in range(frames)] for place in places], np.int64)


def spatial_views(clip_THWC: NDArray[np.uint8], size: int, views: int) -> list[Tensor]:
    """Square crops along the long side of frames whose short side is scaled to `size`: uint8 [T, size, size, C].

    They begin at int(v * (long - size) / (views - 1)); a single one is in the middle.
    """
    height, width = clip_THWC.shape[1:3]
    short = min(height, width)
    rows, columns = int(size * height / short), int(size * width / short)
    planes = torch.from_numpy(clip_THWC).permute(0, 3, 1, 2)
    if (rows, columns) != (height, width):
        planes = F.interpolate(planes, size=(rows, columns), mode="bilinear", antialias=True, align_corners=False)
    scaled_THWC = planes.permute(0, 2, 3, 1)
    room = max(rows, columns) - size
    starts = [room // 2] if views == 1 else [int(view * (room / (views - 1))) for view in range(views)]
    axis = 2 if columns > rows else 1
    return [scaled_THWC.narrow(axis, start, size) for start in starts]


def read_views(
    place: Place,
    clip: Clip,
    *,
    sampling: Literal["dense", "segments"],
    temporal: int,
    spatial: int,
    decoder: str = "auto",
) -> Tensor:
    """The views of one video, time first, then places: uint8 [V, T, H, W, C]. Errors: UserError, see read_clip."""
    meta, mp4 = read_clip(place)
    if sampling == "dense":
        frames_VT = dense_views(meta.frames, frames=clip.frames, stride=clip.stride, views=temporal)
    else:
        frames_VT = segment_views(meta.frames, frames=clip.frames, views=temporal)
    unique, position = np.unique(frames_VT, return_inverse=True)
    crops = spatial_views(decode(mp4, unique, meta, str(place), decoder), clip.size, spatial)
    position_VT = torch.from_numpy(position.reshape(frames_VT.shape))
    return torch.stack([crop[frames_T] for frames_T in position_VT for crop in crops])


@dataclass(frozen=True)
class ViewsDataset(Dataset["Tensor | Failure"]):
    """The views of each video, uint8 [V, T, H, W, C], or why it cannot be read."""

    videos: Videos
    experiment: Experiment

    @property
    def views(self) -> int:
        return self.experiment.finetune.temporal_views * self.experiment.finetune.spatial_views

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> Tensor | Failure:
        options = self.experiment.finetune
        try:
            return read_views(
                self.videos.clip_place(row), self.experiment.clip, sampling=options.sampling,
                temporal=options.temporal_views, spatial=options.spatial_views,
                decoder=self.experiment.pretrain.decoder,
            )  # fmt: skip
        except UserError as error:
            return Failure(str(error))
