"""What is drawn when: the order of an epoch, the batches of a rank, the frames of a clip.

Everything is a pure function of (seed, epoch, key), so the state of the stream is the number of
batches consumed; workers, processes and restarts change nothing (torchtitan and mosaicml/streaming
count in the same way). No generator lives longer than one draw.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.config import Finetune, Optim
from schemas.errors import UserError

Ints = NDArray[np.int64]
Address = tuple[int, int]  # (epoch, row of the index): all that a video's clips depend on, apart from the seed


def digest64(text: str) -> int:
    """64 bits of BLAKE2b as a signed integer. Python's hash() of a string differs between processes."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def generator(seed: int, *names: object) -> np.random.Generator:
    """A generator for one purpose, such as generator(seed, epoch, key, "crop").

    Each purpose has its own, so that switching one draw off (flip, random masks) leaves all
    others as they were: two runs that differ in the mask see the same crops of the same frames.
    """
    text = "/".join(map(str, (seed, *names)))
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.blake2b(text.encode()).digest()[:16], "big")))


def epoch_order(shards: NDArray[Any], *, seed: int, epoch: int, block: int) -> Ints:
    """The rows of the index in the order of an epoch, a permutation int64 [rows].

    shards: the shard number of each row. The shards are shuffled, starting from their sorted list
    whatever came before, and cut into blocks of `block`; rows are shuffled within a block. Reading
    thus stays within `block` files at a time, while any two shards can meet in some epoch.
    """
    rng = generator(seed, epoch, "order")
    names, shard_of_row = np.unique(shards, return_inverse=True)
    place_of_shard = np.empty(len(names), np.int64)
    place_of_shard[rng.permutation(len(names))] = np.arange(len(names))
    block_of_row = place_of_shard[shard_of_row] // block
    # Sorted by (block, a random number): a shuffle within each block.
    return np.lexsort((rng.random(len(shards)), block_of_row)).astype(np.int64)


def updates(videos: int, options: Optim | Finetune, repeats: int = 1) -> int:
    """Of a whole run over so many videos, each of which gives `repeats` clips: the rest of an epoch is dropped."""
    return options.epochs * (videos * repeats // options.batch_size)


@dataclass(frozen=True)
class BatchPlan:
    """The micro-batches of one rank, from any point on; a batch sampler for torch's DataLoader.

    A global batch is the next `batch_size / repeats` rows of the epoch's order (the rest of an epoch is
    dropped); each row gives `repeats` clips. It is cut into `accumulate` micro-batches, and each of those
    into `world` contiguous parts, so the same clips meet in the same micro-batch on any number of ranks.
    """

    shards: NDArray[Any]  # shard number of each row of the index
    seed: int
    epochs: int
    batch_size: int  # clips over all ranks and micro-batches
    accumulate: int = 1
    world: int = 1
    rank: int = 0
    shuffle_shards: int = 16
    start: int = 0  # global batches already consumed
    section: str = "optim"  # of the config that batch_size is in, for messages
    repeats: int = 1  # clips of a video, which stand together

    def __post_init__(self) -> None:
        if self.batch_size % (self.accumulate * self.world * self.repeats):
            raise UserError(
                f"{self.section}.batch_size {self.batch_size} is not a multiple of accumulate x processes x repeats "
                f"= {self.accumulate} x {self.world} x {self.repeats}"
            )
        if not self.batches_per_epoch:
            raise UserError(
                f"there are {len(self.shards)} videos to train on, too few for one batch of {self.videos_per_batch}: "
                f"lower {self.section}.batch_size (--set {self.section}.batch_size=N) or add videos"
            )

    @property
    def batches_per_epoch(self) -> int:
        return len(self.shards) // self.videos_per_batch

    @property
    def videos_per_batch(self) -> int:
        """Videos in one global batch."""
        return self.batch_size // self.repeats

    @property
    def total(self) -> int:
        """Global batches (updates) of the whole run."""
        return self.epochs * self.batches_per_epoch

    @property
    def clips_per_rank(self) -> int:
        """Clips of one rank in one micro-batch."""
        return self.batch_size // (self.accumulate * self.world)

    def __len__(self) -> int:
        """Micro-batches still to come."""
        return (self.total - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Address]]:
        first_epoch, first_batch = divmod(self.start, self.batches_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            order = epoch_order(self.shards, seed=self.seed, epoch=epoch, block=self.shuffle_shards)
            for batch in range(first_batch if epoch == first_epoch else 0, self.batches_per_epoch):
                rows = order[batch * self.videos_per_batch : (batch + 1) * self.videos_per_batch]
                parts = rows.reshape(self.accumulate, self.world, -1)
                for micro in range(self.accumulate):
                    yield [(epoch, int(row)) for row in parts[micro, self.rank]]


def random_frames(total: int, *, frames: int, stride: int, rng: np.random.Generator) -> Ints:
    """Frame numbers of a training clip, int64 [frames], every `stride`-th from a random start.

    VideoMAE's window of frames * stride frames, its start uniform over all that fit. A video that is
    shorter than the window starts at 0 and is never dropped: as VideoMAE does, the last frame on stride is repeated
    (44, 48, 48 of 50 frames).
    """
    return _clamped(total, int(rng.integers(max(total - frames * stride, 0) + 1)), frames, stride)


def spread_frames(total: int, *, frames: int, stride: int, views: int) -> list[Ints]:
    """The clips of `views` evenly spaced windows, the first at the beginning, the last at the end.

    One view is the middle one. Short videos as in random_frames: all views are then the same.
    """
    room = max(total - frames * stride, 0)
    starts: Sequence[float] = [room / 2] if views == 1 else [room * view / (views - 1) for view in range(views)]
    return [_clamped(total, int(start), frames, stride) for start in starts]


def _clamped(total: int, start: int, frames: int, stride: int) -> Ints:
    if total < 1:
        raise ValueError(f"a video of {total} frames has no clip")
    steps = np.minimum(np.arange(frames, dtype=np.int64), (total - 1 - start) // stride)
    return start + stride * steps
