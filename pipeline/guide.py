"""The guide stage: a score for each patch of each clip, in tars beside the clips' (section 3.3).

`guides/X/NNNNNN.tar` holds the keys of `clips/NNNNNN.tar` in the same order: KEY.json, KEY.scores.npy, KEY.text.npy.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from pipeline.guides import Array, Guide, Reader, checked
from pipeline.guides.captions import check_captions, read_captions
from pipeline.guides.recipes import recipe
from pipeline.prefetch import read_ahead
from pipeline.specs import guide_spec
from pipeline.stage import build
from pipeline.tars import Fields, new_shard, read_sample
from pipeline.units import Row, ShardResult, Unit
from pipeline.video import VideoError
from schemas.atomic import sha256_file
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.shards import GuideMeta, meta_bytes, npy_bytes, quantize
from schemas.stage import StageRecord
from schemas.tables import CLIP_INDEX, GUIDE_INDEX, failure, read_table
from schemas.workspace import Workspace, shard_name

STAGE = "guide"
TABLE = "index.parquet"
AHEAD = 4  # chunks decoded before they are asked for


class GuideWorker:
    """Scores the clips of one shard; another thread decodes what comes next."""

    def __init__(
        self, guide: Guide, clips: Path, captions: Path | None, folder: Path, frame_stride: int, read: Reader | None
    ) -> None:
        """`clips` and `captions` are folders of those stages, `captions` None for a guide that needs none; `folder`
        takes the tars; `read` makes the guide's chunks of a clip, None: it looks at no video."""
        self._guide, self._clips, self._captions = guide, clips, captions
        self._folder, self._stride, self._read = folder, frame_stride, read

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        clock = {"read": 0.0, "compute": 0.0, "write": 0.0}
        keys = [row["key"] for row in unit.rows]
        texts, reasons = read_captions(self._captions, keys) if self._captions else ({key: [] for key in keys}, {})
        wanted = [row for row in unit.rows if row["key"] in texts]
        videos = groupby(read_ahead(self._decode(unit.shard, wanted), ahead=AHEAD), key=itemgetter(0))
        path = self._folder / shard_name(unit.shard)
        rows: list[Row] = []
        failures: list[Row] = []
        with new_shard(path) as shard:
            for row in unit.rows:
                key, maps = row["key"], 0
                meta = GuideMeta(video_id=row["video_id"], frames=row["frames"], frame_stride=self._stride)
                if key in texts:
                    began = time.perf_counter()
                    found, chunks = next(videos)  # waits for the first chunk
                    clock["read"] += time.perf_counter() - began
                    assert found == key
                    try:
                        fields, maps = self._score(meta, (chunk for _, chunk in chunks), texts[key], clock)
                    except UserError:
                        raise
                    except Exception as error:  # becomes the video's failure, with its reason
                        problem = failure(row["video_id"], STAGE, error)
                        failures.append(problem)
                        fields = _missing(meta, f"{problem['error']}: {problem['message']}")
                else:
                    fields = _missing(meta, reasons[key])
                began = time.perf_counter()
                offset, length = shard.add(key, fields)
                clock["write"] += time.perf_counter() - began
                rows.append({"key": key, "shard": unit.shard, "offset": offset, "length": length, "maps": maps})
                yield 1
        yield ShardResult(unit.shard, rows, failures, {path.name: sha256_file(path)}, clock)

    def _decode(self, shard: int, rows: list[Row]) -> Iterator[tuple[str, Array | VideoError | None]]:
        """(key, chunk) of all videos in order; at least one each, an error being the last of its video. None is the
        chunk of a video that the guide does not look at."""
        if self._read is None or not rows:
            yield from ((row["key"], None) for row in rows)
            return
        path = self._clips / shard_name(shard)
        if not path.is_file():
            raise UserError(f"{path} is not there, though the clips' index names it: delete clips/ and shard again")
        with open(path, "rb") as tar:
            for row in rows:
                sample = read_sample(tar, row["offset"], row["length"], row["key"])
                try:
                    for chunk in self._read(sample["mp4"], self._stride, row["frames"]):
                        yield row["key"], chunk
                except VideoError as error:
                    yield row["key"], error

    def _score(
        self, meta: GuideMeta, chunks: Iterable[Array | VideoError | None], captions: list[str], clock: dict[str, float]
    ) -> tuple[Fields, int]:
        """The members of a sample, and how many maps, or texts where there are no maps, are in it."""
        began, read = time.perf_counter(), clock["read"]
        scored = -(-meta.frames // self._stride)
        scores = checked(self._guide.score(_timed(chunks, clock), captions), captions, scored)
        fields: Fields = {}
        if scores.maps is not None:
            stored, scale, offset = quantize(scores.maps)
            meta = meta.model_copy(update={"scale": scale, "offset": offset})
            fields["scores.npy"] = npy_bytes(stored)
        if scores.text is not None:
            fields["text.npy"] = npy_bytes(scores.text.astype(np.float16))
        clock["compute"] += time.perf_counter() - began - (clock["read"] - read)
        whole = meta.model_copy(update={"captions": captions})
        return {"json": meta_bytes(whole), **fields}, len(meta.scale) or len(captions)


def _timed(chunks: Iterable[Array | VideoError | None], clock: dict[str, float]) -> Iterator[Array]:
    """The chunks, their errors raised; the time waited for them is reading."""
    began = time.perf_counter()
    for chunk in chunks:
        clock["read"] += time.perf_counter() - began
        if isinstance(chunk, VideoError):
            raise chunk
        if chunk is not None:
            yield chunk
        began = time.perf_counter()


def _missing(meta: GuideMeta, reason: str) -> Fields:
    return {"json": meta_bytes(meta.model_copy(update={"missing": reason}))}


def run_guide(experiment: Experiment) -> StageRecord:
    """Makes the guide that the experiment names, or what is missing of it: tars, index.parquet, failures.parquet.

    Raises UserError when clips are missing, or captions where the guide needs them; when those do not belong together
    or do not cover each other; when the model or class cannot be loaded; or when too many videos fail.
    """
    spec = guide_spec(experiment)
    workspace = Workspace(Path(experiment.workspace))
    clips, captions = workspace.clips.resolve(), None
    index = read_table(clips / "index.parquet", CLIP_INDEX)
    if "captions" in spec.inputs:
        check_captions(workspace, experiment.captions, index)
        captions = workspace.captions(experiment.captions).resolve()
    chosen, folder = recipe(experiment), spec.folder.resolve()
    return build(
        spec,
        units=_units(index.to_pylist()),
        worker=lambda: GuideWorker(chosen.make(), clips, captions, folder, chosen.frame_stride, chosen.read),
        schema=GUIDE_INDEX,
        table=TABLE,
        ray=experiment.ray,
        max_failures=experiment.max_failures,
        tools=chosen.tools,
        holds_model=chosen.holds_model,
    )


def _units(index: list[Row]) -> list[Unit]:
    """One for each tar of the clips, in the order of the index."""
    return [Unit(shard, list(rows)) for shard, rows in groupby(index, key=itemgetter("shard"))]
