"""What a classifier predicts for each test video: the mean over its views.

VideoMAE's arithmetic (its engine_for_finetuning): softmax of each view, mean of the probabilities. Nothing is
drawn, and what belongs together is computed together on any number of processes, so the numbers
depend on neither chance nor machines: a video is predicted once, by one process.

Shape suffixes: S videos, B clips, T frames, H rows, W columns, C channels; P probabilities, head after head
(train/data/classes.py).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from schemas.foreign_text import shown
from schemas.progress import Progress, console
from train.data.classes import Classes
from train.data.loading import clip_bytes, loaded
from train.data.stream import Failure
from train.data.views import ViewsDataset
from train.engine.device_defaults import loader_workers
from train.engine.distributed import Ranks

AT_ONCE = 16  # views, about, that a process computes together


@dataclass(frozen=True)
class Predictions:
    """Of all videos of a test, in their order; the same on every process."""

    probability_SP: NDArray[np.float32]  # 0 where the video could not be read
    read_S: NDArray[np.bool_]


def predict(model: nn.Module, classes: Classes, dataset: ViewsDataset, ranks: Ranks) -> Predictions:
    """Every video's probabilities; model: on its device, clips uint8 [B, T, H, W, C] to scores [B, P].

    Videos that cannot be read are named on stderr, with the reason, and left out.
    """
    precision, workers = dataset.experiment.pretrain.precision, loader_workers(dataset.experiment, ranks.device.type)
    together = max(AT_ONCE // dataset.views, 1)
    groups = [list(range(first, min(first + together, len(dataset)))) for first in range(0, len(dataset), together)]
    mine = groups[ranks.rank :: ranks.world]
    size = together * dataset.views * clip_bytes(dataset.experiment.clip)
    pin = ranks.device.type == "cuda"
    batches = loaded(dataset, mine, collate=list, workers=workers, pin=pin, batch_bytes=size)
    # Filled by one process each and 0 elsewhere, so that their sum over processes is exact.
    probability_SP = torch.zeros(len(dataset), classes.outputs, device=ranks.device)
    read_S = torch.zeros(len(dataset), dtype=torch.int32, device=ranks.device)
    model.eval()
    with torch.inference_mode(), _progress(dataset, ranks) as progress:
        for rows, samples in zip(mine, batches, strict=True):
            views: list[Tensor] = []
            read: list[int] = []
            for row, sample in zip(rows, samples, strict=True):
                if isinstance(sample, Failure):
                    console.print(shown(f"test: {sample.message}"))
                else:
                    read.append(row)
                    views.append(sample.to(ranks.device, non_blocking=True))
            if read:
                scores = _scores(model, torch.cat(views), ranks.device, precision)
                parts = [part.softmax(-1) for part in classes.split(scores)]
                probability_SP[read] = torch.cat(parts, -1).unflatten(0, (len(read), -1)).mean(1)
                read_S[read] = 1
            progress.advance(min(len(rows) * ranks.world, len(dataset) - progress.done))
    numbers = np.asarray(ranks.sum(probability_SP).cpu().numpy(), np.float32)
    return Predictions(numbers, ranks.sum(read_S).cpu().numpy() > 0)


def _progress(dataset: ViewsDataset, ranks: Ranks) -> Progress:
    return Progress("test", len(dataset), hidden=not ranks.main, workspace=dataset.videos.workspace.root)


def _scores(model: nn.Module, views_BTHWC: Tensor, device: torch.device, precision: str) -> Tensor:
    """Float32 scores, computed `AT_ONCE` views at a time."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        return torch.cat([model(part).float() for part in views_BTHWC.split(AT_ONCE)])
