"""Batches by torch's loader workers: memory to hand them over is checked first, and no wait is without an end."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from schemas.config import Clip
from schemas.errors import UserError

SHARED = Path("/dev/shm")  # where Linux keeps the memory that workers hand batches over in
AHEAD = 2  # batches that a worker keeps ready
TIMEOUT = 600  # seconds without a batch


def clip_bytes(clip: Clip) -> int:
    """Bytes of one clip, uint8."""
    return clip.frames * clip.size**2 * 3


def loaded(
    dataset: Dataset[Any], batches: Iterable[list[Any]], *, collate: Callable[[list[Any]], Any], workers: int,
    pin: bool, batch_bytes: int,
) -> Iterator[Any]:  # fmt: skip
    """The batches in order, for any number of worker processes; 0: in this one.

    batch_bytes: about how large one is. Errors: UserError when shared memory cannot hold what the workers keep ready,
    when a worker dies, and when none gives a batch within TIMEOUT seconds.
    """
    if workers:
        check_shared_memory(workers * AHEAD * batch_bytes)
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers, pin_memory=pin,
        prefetch_factor=AHEAD if workers else None, timeout=TIMEOUT if workers else 0,
        generator=torch.Generator(),  # of its workers' seeds, which nothing uses: the global one stays untouched
    )  # fmt: skip
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise UserError(
            f"a loader worker died or hangs: {' '.join(str(error).split())[:300]}. Is memory short (--shm-size in "
            "Docker; lower pretrain.workers or the batch size)? pretrain.workers=0 reads in the trainer's own process"
        ) from error


def check_shared_memory(needed: int) -> None:
    """Errors: UserError when SHARED has fewer bytes free: a worker would be killed in the middle of a run."""
    if SHARED.is_dir() and (free := shutil.disk_usage(SHARED).free) < needed:
        raise UserError(
            f"the loader's workers keep about {needed / 1e6:.0f} MB of batches ready in {SHARED}, which has "
            f"{free / 1e6:.0f} MB free: give it more (docker run --shm-size 8g), or lower pretrain.workers or the "
            "batch size"
        )
