"""The guide stage: a score for each patch of each clip, in tars next to the clips' (section 3.3).

`guides/X/NNNNNN.tar` holds the keys of `clips/NNNNNN.tar` in the same order: KEY.json, KEY.scores.npy, KEY.text.npy.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.guides import Guide, Reader, checked
from pipeline.guides.recipes import recipe, with_batch_size
from pipeline.guides.shard_captions import check_captions
from pipeline.runtime.job import Job
from pipeline.runtime.model_check import check_guide
from pipeline.runtime.ray_session import shared_ray
from pipeline.runtime.stage_build import build
from pipeline.runtime.units import Row, Unit
from pipeline.sidecar_worker import SidecarWorker
from pipeline.stage_specs import guide_spec
from schemas.config import FLOWS, Experiment
from schemas.shards import GuideMeta, meta_bytes, npy_bytes, quantize
from schemas.stage import TO_FIND, StageRecord
from schemas.tables import CLIP_INDEX, GUIDE_INDEX, MANIFEST, read_table
from schemas.tar_sample import Fields
from schemas.workspace import Workspace

TABLE = "index.parquet"


class GuideWorker(SidecarWorker):
    """Scores the clips of one shard."""

    stage = "guide"

    def __init__(
        self,
        guide: Guide,
        clips: Path,
        captions: Path | None,
        folder: Path,
        frame_stride: int,
        read: Reader | None,
        member: str = "mp4",
        threads: int = 0,
    ) -> None:
        super().__init__(clips, captions, folder, frame_stride, read, member, threads)
        self._guide = guide

    def fields(self, meta: GuideMeta, chunks: Iterator[Any], captions: list[str]) -> tuple[Fields, int]:
        """Counted are maps, or texts where there are no maps."""
        scored = -(-meta.frames // meta.frame_stride)
        scores = checked(self._guide.score(chunks, captions), captions, scored)
        fields: Fields = {}
        if scores.maps is not None:
            stored, scale, offset = quantize(scores.maps)
            meta = meta.model_copy(update={"scale": scale, "offset": offset, "points": scores.points})
            fields["scores.npy"] = npy_bytes(stored)
        if scores.text is not None:
            fields["text.npy"] = npy_bytes(scores.text.astype(np.float16))
        whole = meta.model_copy(update={"captions": captions})
        return {"json": meta_bytes(whole), **fields}, len(meta.scale) or len(captions)


def run_guide(experiment: Experiment) -> StageRecord:
    """Makes the guide that the experiment names, or what is missing of it: tars, index.parquet, failures.parquet.

    Raises UserError when clips are missing, or captions where the guide needs them; when those do not belong together
    or do not cover each other; when the model or class cannot be loaded; or when too many videos fail.
    """
    spec = guide_spec(experiment)
    section = "flow" if experiment.guide in FLOWS else "text"
    experiment = experiment.model_copy(update={section: getattr(experiment, section).model_copy(update=spec.chosen)})
    workspace = Workspace(Path(experiment.workspace))
    clips, captions = workspace.clips.resolve(), None
    index = read_table(clips / "index.parquet", CLIP_INDEX)
    if "captions" in spec.inputs:
        check_captions(workspace, experiment.captions, index)
        captions = workspace.captions(experiment.captions).resolve()
    check_guide(experiment)
    if spec.chosen.get("batch_size") == TO_FIND:
        manifest = read_table(workspace.manifest / "manifest.parquet", MANIFEST).to_pylist()
        with shared_ray():
            return run_guide(with_batch_size(experiment, section, manifest, index.to_pylist()))
    chosen, rows = recipe(experiment), index.to_pylist()
    if chosen.clips is not None:
        clips = chosen.clips
        places = read_table(clips / TABLE, GUIDE_INDEX).to_pylist()
        rows = [{**row, **place} for row, place in zip(rows, places, strict=True)]
    job = Job(
        spec=spec,
        units=units(rows),
        cost=itemgetter("frames"),
        worker=lambda folder: GuideWorker(
            chosen.make(),
            clips,
            captions,
            folder,
            chosen.frame_stride,
            chosen.read,
            chosen.member,
            experiment.ray.decode_threads,
        ),
        schema=GUIDE_INDEX,
        table=TABLE,
        tools=chosen.tools,
        holds_model=chosen.holds_model,
    )
    return build(job, experiment)


def units(index: list[Row]) -> list[Unit]:
    """One for each tar of the clips, in the order of the index."""
    return [Unit(shard, list(rows)) for shard, rows in groupby(index, key=itemgetter("shard"))]
