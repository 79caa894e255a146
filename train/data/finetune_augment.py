"""Fine-tuning's augmentation: timm's parts, one draw for all frames of a clip, and nothing left to chance.

timm draws from the global generators of Python and numpy. Here they are seeded for one call and put
back, so that a draw is a function of what names it (train/data/sampling.py), in any process.

Shape suffixes: T frames, H rows, W columns, C channels; B clips of a batch, K classes.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor

from schemas.errors import UserError
from train.data.augment import Crop
from train.models.cubes import IMAGENET_MEAN, IMAGENET_STD

Pixels = NDArray[np.uint8]
ASPECT = (3 / 4, 4 / 3)  # of the random resized crop
GROUP = 8  # videos that share one draw of mixup or cutmix; even, for pairs are mixed


@contextmanager
def drawing(rng: np.random.Generator) -> Iterator[None]:
    """Whatever draws from the global generators of Python and numpy draws from `rng`; theirs are put back."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    seed = int(rng.integers(2**32))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def rand_augment(notation: str) -> Callable[[Image.Image], Image.Image]:
    """timm's RandAugment, bicubic as VideoMAE's. Errors: UserError for what is not its notation."""
    try:
        transform: Callable[[Image.Image], Image.Image] = rand_augment_transform(
            notation, {"interpolation": Image.Resampling.BICUBIC}
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise UserError(
            f"finetune.rand_augment = {notation!r} is not timm's notation, such as 'rand-m7-n4-mstd0.5-inc1' "
            f"({str(error) or 'it begins with rand-'}); '' switches it off"
        ) from error
    return transform


def augment_frames(
    clip_THWC: Pixels, transform: Callable[[Image.Image], Image.Image], rng: np.random.Generator
) -> Pixels:
    """Every frame changed in the same way: the same operations, magnitudes and directions."""
    state = rng.bit_generator.state
    frames = []
    for frame_HWC in clip_THWC:
        rng.bit_generator.state = state
        with drawing(rng):
            frames.append(np.asarray(transform(Image.fromarray(frame_HWC))))
    return np.stack(frames)


def resized_crop(
    width: int, height: int, area: tuple[float, float], rng: np.random.Generator, *, flip: bool = False
) -> Crop:
    """timm's (torchvision's) random resized crop of a frame: a share of its area, an aspect of 3/4 to 4/3."""
    with drawing(rng):
        frame = Image.new("L", (width, height))
        top, left, rows, columns = RandomResizedCropAndInterpolation.get_params(frame, area, ASPECT)
    return Crop(left, top, columns, rows, width, height, flip)


def erase(clip_THWC: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """timm's random erasing: with `probability`, one rectangle, the same in all frames, becomes noise.

    Normal noise of ImageNet's mean and deviation, new for every pixel of every frame, cut to bytes,
    for clips travel as bytes; VideoMAE's, drawn after normalisation, is not cut.
    """
    with drawing(rng):
        kept_HW = RandomErasing(probability, mode="const", device="cpu")(torch.ones(1, *clip_THWC.shape[1:3]))[0]
    rows, columns = (kept_HW == 0).nonzero(as_tuple=True)
    if len(rows):
        noise_TPC = rng.normal(IMAGENET_MEAN, IMAGENET_STD, (len(clip_THWC), len(rows), 3)) * 255
        clip_THWC = clip_THWC.clone()
        clip_THWC[:, rows, columns] = torch.from_numpy(noise_TPC.round().clip(0, 255).astype(np.uint8))
    return clip_THWC


@dataclass(frozen=True)
class Mixing:
    """timm's mixup and cutmix, "batch" mode: one share, one rectangle, for each group of GROUP videos of a micro-batch.

    VideoMAE draws once on each GPU, for its 8 videos. Groups of a fixed size are the same on any number of processes.
    """

    mixup: float  # alpha; 0: off
    cutmix: float  # alpha; 0: off
    classes: int

    @property
    def on(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(
        self, clip_BTHWC: Tensor, label_B: Tensor, *, repeats: int, draw: Callable[[int], np.random.Generator],
        first: int = 0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Mixed clips, and shares of classes float32 [B, K], rows in another order than they came.

        clip_BTHWC: float32; the `repeats` clips of a video follow one another. Clips of two videos that
        follow one another are mixed, so that it does not matter among how many processes a batch is
        shared; there must be an even number of videos. draw: of a group, by its number; first: the number of the
        first of these videos in the micro-batch of all processes.
        """
        if not self.on:
            return clip_BTHWC, torch.nn.functional.one_hot(label_B, self.classes).float()
        videos = first + np.arange(len(clip_BTHWC) // repeats)
        sizes = np.unique(videos // GROUP, return_counts=True)
        parts = [clip_BTHWC.split([int(size) * repeats for size in sizes[1]]),
                 label_B.split([int(size) * repeats for size in sizes[1]])]  # fmt: skip
        mixed = [self._group(clips, labels, repeats, draw(int(number)))
                 for number, clips, labels in zip(sizes[0], *parts, strict=True)]  # fmt: skip
        return torch.cat([clips for clips, _ in mixed]), torch.cat([shares for _, shares in mixed])

    def _group(
        self, clip_BTHWC: Tensor, label_B: Tensor, repeats: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        frames, channels = clip_BTHWC.shape[1], clip_BTHWC.shape[-1]
        rows = torch.arange(len(clip_BTHWC), device=clip_BTHWC.device).unflatten(0, (-1, 2, repeats))
        order = torch.cat((rows[:, 0].flatten(), rows[:, 1].flatten().flip(0)))  # timm mixes i with B - 1 - i
        mix = Mixup(self.mixup, self.cutmix, label_smoothing=0.0, num_classes=self.classes)
        images = clip_BTHWC[order].permute(0, 1, 4, 2, 3).flatten(1, 2)  # an image of T C channels
        with drawing(rng):
            images, class_BK = mix(images, label_B[order])
        return images.unflatten(1, (frames, channels)).permute(0, 1, 3, 4, 2), class_BK


def smoothed(target_BK: Tensor, smoothing: float) -> Tensor:
    """Label smoothing as timm's: the share `smoothing` is given to all classes evenly."""
    return target_BK * (1 - smoothing) + smoothing / target_BK.shape[1]
