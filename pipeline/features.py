"""The features stage (`text.cache`): every patch's embedding, kept compactly next to the clips, without captions.

`features/X/NNNNNN.tar` holds the keys of `clips/NNNNNN.tar` in the same order: KEY.json, KEY.codes.bin
(pipeline/guides/cache.py); NNNNNN.basis.npz is what the codes of that tar are coordinates in, fitted on a sample of
its videos. A shard needs nothing of another, so that any of them can be made anywhere, and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.guide import TABLE, units
from pipeline.guides import SHARDS, Floats, Frames, settled_text
from pipeline.guides.cache import MEMBER, Basis, fit_basis, load_basis, pack
from pipeline.guides.frames import scored_frames
from pipeline.guides.recipes import with_batch_size
from pipeline.guides.text import ENCODER
from pipeline.runtime.job import Job
from pipeline.runtime.model_check import check_clip
from pipeline.runtime.ray_session import shared_ray
from pipeline.runtime.stage_build import build
from pipeline.runtime.units import ShardResult, Unit
from pipeline.sidecar_worker import SidecarWorker
from pipeline.stage_specs import features_spec
from schemas.atomic import sha256_file, write_once
from schemas.config import Experiment, Text
from schemas.errors import UserError
from schemas.shards import GuideMeta, meta_bytes
from schemas.stage import TO_FIND, StageRecord
from schemas.tables import CLIP_INDEX, GUIDE_INDEX, MANIFEST, read_table
from schemas.tar_sample import Fields
from schemas.workspace import Workspace

VIDEOS, FRAMES = 32, 4  # of a shard, and of a video, evenly spaced: the sample that the basis is fitted on

Embed = Callable[[Frames], Floats]  # uint8 [F, H, W, 3] -> float32 [F, gh, gw, D]


class FeaturesWorker(SidecarWorker):
    """Embeds the clips of one shard."""

    stage = "features"

    def __init__(self, embed: Embed, clips: Path, folder: Path, options: Text, threads: int = 0) -> None:
        super().__init__(clips, None, folder, options.frame_stride, scored_frames, threads=threads)
        self._embed, self._options = embed, options
        self._basis: tuple[str, Basis] | None = None  # of the present shard, and its file

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        began = time.perf_counter()
        name = unit.beside(f"{unit.shard:06d}.basis.npz")
        path = self._folder / name
        if unit.whole:
            path.unlink(missing_ok=True)  # of a run that was stopped, perhaps on another machine
        # Workers that begin a shard at once all fit it, which takes no longer than to wait: the first one's counts.
        if not path.is_file() and (fitted := fit_basis(self._sample(self._shard(unit)), self._options.cache_kept)):
            write_once(path, fitted.save())
        found = path.is_file()
        self._basis = (path.name, load_basis(path)) if found else None
        files = {name: sha256_file(path)} if found else {}
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

    def _shard(self, part: Unit) -> Unit:
        """The shard that this is a part of."""
        if part.whole:
            return part
        index = read_table(self._clips / TABLE, CLIP_INDEX)
        return Unit(part.shard, index.filter(pc.equal(index["shard"], part.shard)).to_pylist())

    def _sample(self, unit: Unit) -> Iterator[Floats]:
        """The embeddings of FRAMES frames of each of VIDEOS videos that can be read."""
        step = max(1, len(unit.rows) // VIDEOS)
        rows = [row for first in range(step) for row in unit.rows[first::step]]
        found = 0
        with closing(self.decoded(rows)) as videos:
            for row, chunks in videos:
                scored = -(-row["frames"] // self._stride)
                wanted = set(np.linspace(0, scored - 1, FRAMES).round().astype(int).tolist())
                frames: list[Any] = []
                done = 0
                try:
                    for chunk in chunks:
                        frames += [frame for number, frame in enumerate(chunk, done) if number in wanted]
                        done += len(chunk)
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
    experiment = experiment.model_copy(update={"text": experiment.text.model_copy(update=spec.chosen)})
    check_clip(experiment.text)
    workspace = Workspace(Path(experiment.workspace))
    clips = workspace.clips.resolve()
    index = read_table(clips / TABLE, CLIP_INDEX).to_pylist()
    if spec.chosen.get("batch_size") == TO_FIND:
        manifest = read_table(workspace.manifest / "manifest.parquet", MANIFEST).to_pylist()
        with shared_ray():
            return run_features(with_batch_size(experiment, "text", manifest, index))
    job = Job(
        spec=spec,
        units=units(index),
        cost=itemgetter("frames"),
        worker=partial(_make_worker, clips, settled_text(experiment), experiment.ray.decode_threads),
        schema=GUIDE_INDEX,
        table=TABLE,
        tools=[*ENCODER, *SHARDS],
        holds_model=True,
    )
    return build(job, experiment)


def _make_worker(clips: Path, text: Text, threads: int, folder: Path) -> FeaturesWorker:
    from pipeline.guides.encoder import TextEncoder  # open_clip takes seconds to import

    return FeaturesWorker(TextEncoder(text).features, clips, folder, text, threads)
