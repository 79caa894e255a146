"""Features of a frozen encoder: the mean of its tokens, averaged over a video's views. Computed once and kept.

VideoMAE has no class token. Nothing is masked; the views are those of multi-view testing (train/data/views.py).
Always in float32, whatever was trained in.

Shape suffixes: S videos, V views of a video, B views computed together, N tokens, T frames, H rows, W columns,
C channels, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from schemas.atomic import replacing
from schemas.config import Clip, Frozen
from schemas.errors import UserError
from schemas.foreign_text import shown
from schemas.progress import Progress, console
from train.data.loading import clip_bytes, loaded
from train.data.sampling import digest64
from train.data.stream import Failure
from train.data.videos import Videos
from train.data.views import read_views
from train.engine.freed_memory import keep_freed_memory
from train.models.videomae import Encoder

PART = 16384  # videos whose features are kept together: what a stop loses at most


class Features(NamedTuple):
    """Of some videos, in their order."""

    features_SD: NDArray[np.float32]  # 0 where the video could not be read
    read_S: NDArray[np.bool_]


@dataclass(frozen=True)
class ViewDataset(Dataset["Tensor | Failure"]):
    """The views of each video, uint8 [V, T, H, W, C], or why it cannot be read."""

    videos: Videos
    clip: Clip
    options: Frozen
    decoder: str = "auto"

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> Tensor | Failure:
        options = self.options
        try:
            return read_views(
                self.videos.clip_place(row), self.clip, sampling=options.sampling, temporal=options.views,
                spatial=options.spatial_views, decoder=self.decoder,
            )  # fmt: skip
        except UserError as error:
            return Failure(str(error))


def extract(
    encoder: Encoder, dataset: ViewDataset, *, workers: int, device: torch.device, title: str = "features"
) -> Features:
    """Videos that cannot be read are named on stderr, with the reason, and left out."""
    encoder, together = encoder.to(device).eval(), dataset.options.batch_size
    if device.type == "cpu":
        keep_freed_memory()
    views = dataset.options.views * dataset.options.spatial_views
    size = max(together // views, 1)  # videos
    places = [list(range(first, min(first + size, len(dataset)))) for first in range(0, len(dataset), size)]
    batches = loaded(dataset, places, collate=list, workers=workers, pin=device.type == "cuda",
                     batch_bytes=size * views * clip_bytes(dataset.clip))  # fmt: skip
    found = np.zeros((len(dataset), encoder.config.dim), np.float32)
    read_S = np.zeros(len(dataset), bool)
    with torch.inference_mode(), Progress(title, len(dataset), workspace=dataset.videos.workspace.root) as progress:
        for samples in batches:
            rows = []
            for row, sample in enumerate(samples, start=progress.done):
                if isinstance(sample, Failure):
                    console.print(shown(f"{title}: {sample.message}"))
                else:
                    rows.append(row)
            if rows:
                views_BTHWC = torch.cat([sample for sample in samples if not isinstance(sample, Failure)])
                parts = [encoder(part.to(device, non_blocking=True)).mean(1) for part in views_BTHWC.split(together)]
                found[rows] = torch.cat(parts).unflatten(0, (len(rows), views)).mean(1).cpu().numpy()
                read_S[rows] = True
            progress.advance(len(samples))
    if not np.isfinite(found).all():
        raise UserError(f"{title}: a feature is NaN or infinite: the weights are broken")
    return Features(found, read_S)


def kept_features(
    path: Path, made_of: str, videos: Videos, compute: Callable[[Videos], Features], *, part: int = PART
) -> Features:
    """Features of the videos, read from `path` where they are there, else computed and kept there.

    made_of: all that determines a video's features; a file made of something else is rebuilt. Videos that
    could not be read are tried again. Written after every `part` videos, so that a stop loses no more than those.
    """
    digest, rows_S = digest64(made_of), np.asarray([digest64(key) for key in videos.all_keys()], np.int64)
    kept = load_file(path) if path.is_file() else {}
    if kept.get("made_of", np.zeros(1)).tolist() != [digest]:
        kept = {"rows": rows_S[:0]}
    todo = np.flatnonzero(~np.isin(rows_S, kept["rows"]))
    for first in range(0, len(todo), part):
        chosen = np.zeros(len(videos), bool)
        chosen[todo[first : first + part]] = True
        new = compute(videos.where(chosen))
        before = kept.get("features", new.features_SD[:0])
        kept = {
            "rows": np.concatenate((kept["rows"], rows_S[chosen][new.read_S])),
            "features": np.concatenate((before, new.features_SD[new.read_S])),
            "made_of": np.asarray([digest]),
        }
        with replacing(path) as partial:
            save_file(kept, partial)
    place_of_row = {row: place for place, row in enumerate(kept["rows"].tolist())}
    place_S = np.asarray([place_of_row.get(row, -1) for row in rows_S.tolist()], np.int64)
    read_S = place_S >= 0
    features_SD = np.zeros((len(videos), kept["features"].shape[1]), np.float32)
    features_SD[read_S] = kept["features"][place_S[read_S]]
    return Features(features_SD, read_S)
