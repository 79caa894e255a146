"""Multi-view testing: several clips of each video, and the mean of what the classifier says of them.

VideoMAE's arithmetic (recipes.md 2.2): softmax of each view, mean of the probabilities. Nothing is
drawn, and what belongs together is computed together on any number of processes, so the numbers
depend on neither chance nor machines: a video is predicted once, by one process.

Shape suffixes: S videos, V views of a video, time first, then places; T frames, H rows, W columns,
C channels; P probabilities, head after head (train/classes.py).
"""

import sys
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from schemas.config import Clip, Experiment
from schemas.errors import UserError
from train.classes import Classes
from train.distributed import Ranks
from train.reading import decode, read_clip
from train.stream import Failure
from train.videos import Place, Videos

Ints = NDArray[np.int64]
AT_ONCE = 16  # views, about, that a process computes together


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
    place: Place, clip: Clip, *, sampling: Literal["dense", "segments"], temporal: int, spatial: int
) -> Tensor:
    """The views of one video, time first, then places: uint8 [V, T, H, W, C]. Errors: UserError, see read_clip."""
    meta, mp4 = read_clip(place)
    if sampling == "dense":
        frames_VT = dense_views(meta.frames, frames=clip.frames, stride=clip.stride, views=temporal)
    else:
        frames_VT = segment_views(meta.frames, frames=clip.frames, views=temporal)
    unique, position = np.unique(frames_VT, return_inverse=True)
    crops = spatial_views(decode(mp4, unique, meta, str(place)), clip.size, spatial)
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
            )  # fmt: skip
        except UserError as error:
            return Failure(str(error))


@dataclass(frozen=True)
class Predictions:
    """Of all videos of a test, in their order; the same on every process."""

    probability_SP: NDArray[np.float32]  # 0 where the video could not be read
    read_S: NDArray[np.bool_]


def predict(model: nn.Module, classes: Classes, dataset: ViewsDataset, ranks: Ranks) -> Predictions:
    """Every video's probabilities; model: on its device, clips uint8 [B, T, H, W, C] to scores [B, P].

    Videos that cannot be read are named on stderr, with the reason, and left out.
    """
    precision, workers = dataset.experiment.pretrain.precision, dataset.experiment.pretrain.workers
    together = max(AT_ONCE // dataset.views, 1)
    groups = [list(range(first, min(first + together, len(dataset)))) for first in range(0, len(dataset), together)]
    mine = groups[ranks.rank :: ranks.world]
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_sampler=mine, collate_fn=list, num_workers=workers,
        pin_memory=ranks.device.type == "cuda", generator=torch.Generator(),
    )  # fmt: skip
    # Filled by one process each and 0 elsewhere, so that their sum over processes is exact.
    probability_SP = torch.zeros(len(dataset), classes.outputs, device=ranks.device)
    read_S = torch.zeros(len(dataset), dtype=torch.int32, device=ranks.device)
    model.eval()
    with torch.inference_mode(), tqdm(total=len(dataset), desc="test", unit="video", disable=not ranks.main) as bar:
        for rows, samples in zip(mine, loader, strict=True):
            views: list[Tensor] = []
            read: list[int] = []
            for row, sample in zip(rows, samples, strict=True):
                if isinstance(sample, Failure):
                    bar.write(f"test: {sample.message}", file=sys.stderr)
                else:
                    read.append(row)
                    views.append(sample.to(ranks.device, non_blocking=True))
            if read:
                scores = _scores(model, torch.cat(views), ranks.device, precision)
                parts = [part.softmax(-1) for part in classes.split(scores)]
                probability_SP[read] = torch.cat(parts, -1).unflatten(0, (len(read), -1)).mean(1)
                read_S[read] = 1
            bar.update(len(rows) * ranks.world)
    numbers = np.asarray(ranks.sum(probability_SP).cpu().numpy(), np.float32)
    return Predictions(numbers, ranks.sum(read_S).cpu().numpy() > 0)


def _scores(model: nn.Module, views_BTHWC: Tensor, device: torch.device, precision: str) -> Tensor:
    """Float32 scores, computed `AT_ONCE` views at a time."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        return torch.cat([model(part).float() for part in views_BTHWC.split(AT_ONCE)])
