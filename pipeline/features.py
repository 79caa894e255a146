"""The features stage (`text.cache`): every patch's embedding, kept compactly next to the clips, without captions.

`features/X/NNNNNN.tar` holds the keys of `clips/NNNNNN.tar` in the same order: KEY.json, KEY.codes.bin
(pipeline/guides/cache.py); NNNNNN.basis.npz is what the codes of that tar are coordinates in, fitted on a sample of
its videos. A shard needs nothing of another, so that any of them can be made anywhere, and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.guide import TABLE, units
from pipeline.guides import SHARDS, Floats, Frames, settled_text
from pipeline.guides.cache import MEMBER, Basis, fit_basis, pack
from pipeline.guides.frames import scored_frames
from pipeline.guides.text import ENCODER
from pipeline.media.video import VideoError
from pipeline.runtime.job import Job
from pipeline.runtime.model_check import check_clip
from pipeline.runtime.stage_build import build
from pipeline.runtime.units import ShardResult, Unit
from pipeline.sidecar_worker import SidecarWorker
from pipeline.stage_specs import features_spec
from schemas.atomic import sha256_file, write_bytes
from schemas.config import Experiment, Text
from schemas.errors import UserError
from schemas.shards import GuideMeta, meta_bytes
from schemas.stage import StageRecord
from schemas.tables import CLIP_INDEX, GUIDE_INDEX, read_table
from schemas.tar_sample import Fields
from schemas.workspace import Workspace

VIDEOS, FRAMES = 32, 4  # of a shard, and of a video, evenly spaced: the sample that the basis is fitted on

Embed = Callable[[Frames], Floats]  # uint8 [F, H, W, 3] -> float32 [F, gh, gw, D]


class FeaturesWorker(SidecarWorker):
    """Embeds the clips of one shard."""

    stage = "features"

    def __init__(self, embed: Embed, clips: Path, folder: Path, options: Text) -> None:
        super().__init__(clips, None, folder, options.frame_stride, scored_frames)
        self._embed, self._options = embed, options
        self._basis: tuple[str, Basis] | None = None  # of the present shard, and its file

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        began = time.perf_counter()
        path = self._folder / f"{unit.shard:06d}.basis.npz"
        basis, files = fit_basis(self._sample(unit), self._options.cache_kept), {}
        if basis is not None:
            write_bytes(path, basis.save())
            files[path.name] = sha256_file(path)
        self._basis = None if basis is None else (path.name, basis)
        fit = time.perf_counter() - began
        for event in super().run(unit):
            if isinstance(event, ShardResult):
                event = replace(event, files={**event.files, **files}, seconds={**event.seconds, "fit": fit})
            yield event

    def fields(self, meta: GuideMeta, chunks: Iterator[Any], captions: list[str]) -> tuple[Fields, int]:
        """Counted is 1. Raises ValueError for an embedding that is NaN or infinite."""
        embedded = (self._embed(frames_FHW3) for frames_FHW3 in chunks)
        if self._basis is None:
            list(embedded)  # a video that cannot be read reports that itself
            raise ValueError("every feature of the shard's sample is NaN or infinite: the encoder is broken")
        return {"json": meta_bytes(meta), MEMBER: pack(embedded, *self._basis, self._options.cache_bits)}, 1

    def _sample(self, unit: Unit) -> Iterator[Floats]:
        """The embeddings of FRAMES frames of each of VIDEOS videos that can be read."""
        step = max(1, len(unit.rows) // VIDEOS)
        rows = [row for first in range(step) for row in unit.rows[first::step]]
        found = 0
        for row, (_, chunks) in zip(rows, groupby(self.decoded(unit.shard, rows), key=itemgetter(0)), strict=True):
            scored = -(-row["frames"] // self._stride)
            wanted = set(np.linspace(0, scored - 1, FRAMES).round().astype(int).tolist())
            frames: list[Any] = []
            done = 0
            for _, chunk in chunks:
                if isinstance(chunk, VideoError) or chunk is None:
                    break
                frames += [frame for number, frame in enumerate(chunk, done) if number in wanted]
                done += len(chunk)
            else:
                try:
                    embedded = self._embed(np.stack(frames))
                except UserError:
                    raise
                except Exception:  # its turn comes, and it is named then
                    continue
                yield embedded
                found += 1
            if found == VIDEOS:
                return


def run_features(experiment: Experiment) -> StageRecord:
    """Makes the features that the experiment's text guide needs, or what is missing of them.

    Raises UserError when clips are missing, when the model cannot be loaded, or when too many videos fail.
    """
    spec = features_spec(experiment)
    check_clip(experiment.text)
    clips = Workspace(Path(experiment.workspace)).clips.resolve()
    job = Job(
        spec=spec,
        units=units(read_table(clips / TABLE, CLIP_INDEX).to_pylist()),
        worker=partial(_make_worker, clips, settled_text(experiment)),
        schema=GUIDE_INDEX,
        table=TABLE,
        tools=[*ENCODER, *SHARDS],
        holds_model=True,
    )
    return build(job, experiment)


def _make_worker(clips: Path, text: Text, folder: Path) -> FeaturesWorker:
    from pipeline.guides.encoder import TextEncoder  # open_clip takes seconds to import

    return FeaturesWorker(TextEncoder(text).features, clips, folder, text)
