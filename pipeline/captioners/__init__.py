"""Sources of captions, one file each, named in schemas/registry.py; plain classes that know nothing of Ray.

Two kinds: a FrameCaptioner looks at keyframes and holds a model; a RowCaptioner knows the texts of a video from its
row of the manifest, so that nothing is decoded and no cluster is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from pipeline.runtime.units import Row

Frame = np.ndarray[Any, np.dtype[np.uint8]]  # [H, W, 3] RGB


class NoCaption(ValueError):
    """A video that its source says nothing of."""


class NoLabel(NoCaption):
    """A video without a label, where captions are made of labels: left out, and no failure (schemas.tables.SKIPPED)."""


class TimedText(NamedTuple):
    """A caption, and when: a caption of the whole video has no time."""

    text: str
    frame: int | None = None  # in the file, or in the segment
    time: float | None = None  # seconds from the start of the file


@runtime_checkable
class FrameCaptioner(Protocol):
    """Says what a picture shows. `batch_size` frames at a time are best for it."""

    batch_size: int

    def caption(self, frames: list[Frame]) -> list[str]:
        """One text a frame, in order; "" where the model gives no text.

        Raises UserError when the model itself is unusable; any other exception is about these frames.
        """
        ...


@runtime_checkable
class SamplingCaptioner(FrameCaptioner, Protocol):
    """A FrameCaptioner that may draw its words: where `samples` is true, it is given a seed a frame."""

    samples: bool

    def caption_seeded(self, frames: list[Frame], seeds: list[int]) -> list[str]:
        """As caption(); the same frame and seed give the same text, whatever else is in the batch."""
        ...


class RowCaptioner(Protocol):
    """Knows the texts of a video from its row of the manifest alone: nothing is decoded."""

    def describe(self, row: Row) -> list[TimedText]:
        """Raises ValueError, with the reason, for a video that it has no text for."""
        ...


@dataclass(frozen=True)
class RowSource:
    """A captioner of rows, ready to describe."""

    captioner: RowCaptioner
    notes: Mapping[str, bytes] = field(default_factory=dict)  # files next to captions.parquet


def seed_of(seed: int, *names: object) -> int:
    """A number of 63 bits that depends on all of these and on nothing else."""
    text = "\0".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
