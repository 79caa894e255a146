"""Features of a frozen encoder: the mean of its output tokens, averaged over a video's views.

VideoMAE has no class token. The tokens are those after the encoder's final norm, nothing is masked;
a view is an evenly spaced window of frames (train/sampling.py), its short side scaled to the clip's
size and cropped in the middle. Always in float32, whatever was trained in.

Shape suffixes: S videos, B videos of a batch, V views, T frames, H rows, W columns, C channels, D width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from schemas.config import Clip
from schemas.errors import UserError
from train.augment import centre_crop, resize_crop
from train.model import Encoder
from train.sampling import spread_frames
from train.stream import Failure, decode, read_clip
from train.videos import Videos


@dataclass(frozen=True)
class ViewDataset(Dataset["Tensor | Failure"]):
    """The views of each video, uint8 [V, T, H, W, C]."""

    videos: Videos
    clip: Clip
    views: int

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> Tensor | Failure:
        try:
            return self.sample(row)
        except UserError as error:
            return Failure(str(error))

    def sample(self, row: int) -> Tensor:
        """Errors: UserError naming the video, or the shard and offset, of what cannot be read."""
        place = self.videos.clip_place(row)
        meta, mp4 = read_clip(place)
        clip = self.clip
        views = spread_frames(meta.frames, frames=clip.frames, stride=clip.stride, views=self.views)
        pixels_THWC = decode(mp4, np.concatenate(views), meta, str(place))
        crop = centre_crop(pixels_THWC.shape[2], pixels_THWC.shape[1])
        return resize_crop(pixels_THWC, crop, clip.size).unflatten(0, (self.views, clip.frames))


def extract(
    encoder: Encoder, videos: Videos, clip: Clip, *, views: int, batch_size: int, workers: int, device: torch.device,
    title: str = "features",
) -> NDArray[np.float32]:  # fmt: skip
    """Features of the videos in their order, float32 [S, D]. Errors: UserError, see ViewDataset."""
    encoder = encoder.to(device).eval()
    loader: DataLoader[Any] = DataLoader(
        ViewDataset(videos, clip, views), batch_size=batch_size, num_workers=workers, collate_fn=_stack,
        pin_memory=device.type == "cuda", generator=torch.Generator(),
    )  # fmt: skip
    features: list[Tensor] = []
    with torch.inference_mode(), tqdm(total=len(videos), desc=title, unit="video") as bar:
        for views_BVTHWC in loader:
            if isinstance(views_BVTHWC, Failure):
                raise UserError(views_BVTHWC.message)
            count = len(views_BVTHWC)
            tokens = encoder(views_BVTHWC.to(device, non_blocking=True).flatten(0, 1))
            features.append(tokens.float().mean(1).unflatten(0, (count, views)).mean(1).cpu())
            bar.update(count)
    return np.asarray(torch.cat(features).numpy(), np.float32)


def _stack(samples: list[Tensor | Failure]) -> Tensor | Failure:
    good: list[Tensor] = []
    for sample in samples:
        if isinstance(sample, Failure):
            return sample
        good.append(sample)
    return torch.stack(good)
