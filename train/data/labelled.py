"""Labelled clips to fine-tune on: read and decoded once, then augmented `finetune.repeats` times.

As in pretraining (train/data/stream.py) a clip is a function of (seed, epoch, video, repeat) alone.

Shape suffixes: R clips of a video, B clips of a batch, T frames, H rows, W columns, C channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from schemas.config import Experiment
from schemas.errors import UserError
from train.data.augment import resize_crop
from train.data.finetune_augment import augment_frames, erase, rand_augment, resized_crop
from train.data.loading import clip_bytes, loaded
from train.data.reading import decode, read_clip
from train.data.sampling import Address, BatchPlan, generator
from train.data.stream import Failure
from train.data.videos import Videos

Ints = NDArray[np.int64]


def dense_frames(total: int, *, frames: int, stride: int, rng: np.random.Generator) -> Ints:
    """VideoMAE's dense sampling for fine-tuning (its kinetics.py): int64 [frames].

    A random window of frames * stride frames, its ends included, so that the step is a little more
    than the stride. A shorter video is sampled at the stride or less, then its last frame is repeated.
    """
    window = frames * stride
    if total <= window:
        found = np.linspace(0, total, num=total // stride)
        found = np.concatenate((found, np.full(frames - len(found), total)))
        return np.clip(found, 0, total - 1).astype(np.int64)
    end = int(rng.integers(window, total))
    return np.clip(np.linspace(end - window, end, num=frames), 0, end - 1).astype(np.int64)


def segment_frames(total: int, *, frames: int, rng: np.random.Generator) -> Ints:
    """TSN's sampling (VideoMAE's ssv2.py): a random frame of each of `frames` equal parts, int64 [frames].

    Parts have total // frames frames each, the rest at the end is never drawn (VideoMAE). Of a video
    with fewer frames than parts, random ones in their order, some of them twice; VideoMAE takes its
    first frame only, which shows no motion.
    """
    part = total // frames
    if part:
        return part * np.arange(frames, dtype=np.int64) + rng.integers(part, size=frames)
    return np.sort(rng.integers(total, size=frames)).astype(np.int64)


class LabelledSample(NamedTuple):
    clip_RTHWC: Tensor  # uint8
    label: int
    key: str


class LabelledBatch(NamedTuple):
    """A micro-batch of one rank; a NamedTuple of tensors, which torch's loader can pin."""

    clip_BTHWC: Tensor  # uint8; the R clips of a video follow one another
    label_B: Tensor  # int64
    keys: list[str]  # of the videos, B / R of them


@dataclass(frozen=True)
class LabelledDataset(Dataset["LabelledSample | Failure"]):
    """Map-style: the address of an item is (epoch, row of the index)."""

    videos: Videos
    experiment: Experiment

    def __getitem__(self, address: Address) -> LabelledSample | Failure:
        try:
            return self.sample(*address)
        except UserError as error:
            return Failure(str(error))

    def sample(self, epoch: int, row: int) -> LabelledSample:
        """Errors: UserError naming the shard and offset, and the video once known, of what cannot be read."""
        clip, options = self.experiment.clip, self.experiment.finetune
        place = self.videos.clip_place(row)
        meta, mp4 = read_clip(place)
        rng = generator(options.seed, epoch, place.key, "frames")
        if options.sampling == "dense":
            frames_T = dense_frames(meta.frames, frames=clip.frames, stride=clip.stride, rng=rng)
        else:
            frames_T = segment_frames(meta.frames, frames=clip.frames, rng=rng)
        pixels_THWC = decode(mp4, frames_T, meta, str(place), self.experiment.pretrain.decoder)
        clips = [self._augmented(pixels_THWC, (epoch, place.key, repeat)) for repeat in range(options.repeats)]
        return LabelledSample(torch.stack(clips), self.videos.clips.column("label")[row].as_py(), place.key)

    def _augmented(self, pixels_THWC: NDArray[np.uint8], names: tuple[int, str, int]) -> Tensor:
        """RandAugment, random resized crop, flip, random erasing: VideoMAE's order."""
        clip, options = self.experiment.clip, self.experiment.finetune

        def draw(purpose: str) -> np.random.Generator:
            return generator(options.seed, *names, purpose)

        if options.rand_augment:
            pixels_THWC = augment_frames(pixels_THWC, rand_augment(options.rand_augment), draw("rand_augment"))
        height, width = pixels_THWC.shape[1:3]
        flip = clip.flip and bool(draw("flip").random() < 0.5)
        crop = resized_crop(width, height, options.area, draw("crop"), flip=flip)
        clip_THWC = resize_crop(pixels_THWC, crop, clip.size)
        return erase(clip_THWC, options.erasing, draw("erase")) if options.erasing else clip_THWC


def labelled_batches(dataset: LabelledDataset, plan: BatchPlan, *, workers: int, pin: bool) -> Iterator[LabelledBatch]:
    """The micro-batches of a plan, in order, for any number of workers. Errors: UserError, see LabelledDataset."""
    size = plan.clips_per_rank * dataset.experiment.finetune.repeats * clip_bytes(dataset.experiment.clip)
    for batch in loaded(dataset, plan, collate=_collate, workers=workers, pin=pin, batch_bytes=size):
        if isinstance(batch, Failure):
            raise UserError(batch.message)
        yield batch


def _collate(samples: list[LabelledSample | Failure]) -> LabelledBatch | Failure:
    good: list[LabelledSample] = []
    for sample in samples:
        if isinstance(sample, Failure):
            return sample
        good.append(sample)
    return LabelledBatch(
        clip_BTHWC=torch.cat([sample.clip_RTHWC for sample in good]),
        label_B=torch.tensor([sample.label for sample in good for _ in sample.clip_RTHWC], dtype=torch.int64),
        keys=[sample.key for sample in good],
    )
