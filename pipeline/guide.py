"""The guide stage: a score for each patch of each clip, in tars beside the clips' (section 3.3).

`guides/X/NNNNNN.tar` holds the keys of `clips/NNNNNN.tar` in the same order: KEY.json, KEY.scores.npy, KEY.text.npy.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.guides import Frames, Guide, make_guide
from pipeline.prefetch import read_ahead
from pipeline.specs import guide_spec
from pipeline.stage import build
from pipeline.tars import Fields, new_shard, read_sample
from pipeline.units import Row, ShardResult, Unit
from pipeline.video import NoFrames, NotAVideo, VideoError, guarded, rgb, said
from schemas.atomic import sha256_file
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.shards import GuideMeta, meta_bytes, npy_bytes, quantize
from schemas.stage import StageRecord, required_record
from schemas.tables import CAPTIONS, CLIP_INDEX, FAILURES, GUIDE_INDEX, failure, read_table
from schemas.workspace import Workspace, shard_name

STAGE = "guide"
TABLE = "index.parquet"
CHUNK = 32  # scored frames that go to the guide at once; 7 MB at 256 x 320
AHEAD = 4  # chunks decoded before they are asked for


class GuideWorker:
    """Scores the clips of one shard; another thread decodes what comes next."""

    def __init__(self, guide: Guide, clips: Path, captions: Path, folder: Path, frame_stride: int) -> None:
        """`clips` and `captions` are folders of those stages; `folder` takes the tars."""
        self._guide, self._clips, self._captions = guide, clips, captions
        self._folder, self._stride = folder, frame_stride

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        clock = {"read": 0.0, "compute": 0.0, "write": 0.0}
        texts, reasons = read_captions(self._captions, [row["key"] for row in unit.rows])
        captioned = [row for row in unit.rows if row["key"] in texts]
        videos = groupby(read_ahead(self._decode(unit.shard, captioned), ahead=AHEAD), key=itemgetter(0))
        path = self._folder / shard_name(unit.shard)
        rows: list[Row] = []
        failures: list[Row] = []
        with new_shard(path) as shard:
            for row in unit.rows:
                key, captions = row["key"], texts.get(row["key"], [])
                meta = GuideMeta(video_id=row["video_id"], frames=row["frames"], frame_stride=self._stride)
                if captions:
                    began = time.perf_counter()
                    found, chunks = next(videos)  # waits for the first chunk
                    clock["read"] += time.perf_counter() - began
                    assert found == key
                    try:
                        fields = self._score(meta, (chunk for _, chunk in chunks), captions, clock)
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
                maps = len(captions) if "scores.npy" in fields else 0
                rows.append({"key": key, "shard": unit.shard, "offset": offset, "length": length, "maps": maps})
                yield 1
        yield ShardResult(unit.shard, rows, failures, {path.name: sha256_file(path)}, clock)

    def _decode(self, shard: int, rows: list[Row]) -> Iterator[tuple[str, Frames | VideoError]]:
        """(key, chunk) of all videos in order; at least one each, an error being the last of its video."""
        if not rows:
            return
        path = self._clips / shard_name(shard)
        if not path.is_file():
            raise UserError(f"{path} is not there, though the clips' index names it: delete clips/ and shard again")
        with open(path, "rb") as tar:
            for row in rows:
                sample = read_sample(tar, row["offset"], row["length"], row["key"])
                try:
                    for chunk in scored_frames(sample["mp4"], self._stride, row["frames"]):
                        yield row["key"], chunk
                except VideoError as error:
                    yield row["key"], error

    def _score(
        self, meta: GuideMeta, chunks: Iterable[Frames | VideoError], captions: list[str], clock: dict[str, float]
    ) -> Fields:
        began, read = time.perf_counter(), clock["read"]
        scores = self._guide.score(_timed(chunks, clock), captions)
        stored, scale, offset = quantize(scores.maps)
        clock["compute"] += time.perf_counter() - began - (clock["read"] - read)
        whole = meta.model_copy(update={"captions": captions, "scale": scale, "offset": offset})
        return {
            "json": meta_bytes(whole),
            "scores.npy": npy_bytes(stored),
            "text.npy": npy_bytes(scores.text.astype(np.float16)),
        }


def _timed(chunks: Iterable[Frames | VideoError], clock: dict[str, float]) -> Iterator[Frames]:
    """The chunks, their errors raised; the time waited for them is reading."""
    began = time.perf_counter()
    for chunk in chunks:
        clock["read"] += time.perf_counter() - began
        if isinstance(chunk, VideoError):
            raise chunk
        yield chunk
        began = time.perf_counter()


def _missing(meta: GuideMeta, reason: str) -> Fields:
    return {"json": meta_bytes(meta.model_copy(update={"missing": reason}))}


def scored_frames(data: bytes, stride: int, frames: int) -> Iterator[Frames]:
    """Every `stride`-th frame of a stored clip, from the first, in chunks: uint8 [CHUNK or fewer, H, W, 3].

    Raises VideoError when the mp4 cannot be decoded or has not `frames` frames, as its index says.
    """
    chunk = []
    count = 0
    try:
        container = av.open(io.BytesIO(data), "r", format="mp4")
    except av.FFmpegError as error:
        raise NotAVideo(f"the stored clip cannot be opened: {said(error)}") from error
    with container:
        for frame in guarded(container.decode(video=0), "frames"):
            if count % stride == 0:
                chunk.append(rgb(frame))
            count += 1
            if len(chunk) == CHUNK:
                yield np.stack(chunk)
                chunk = []
    if count != frames:
        raise NoFrames(f"the stored clip has {count} frames, its index says {frames}")
    if chunk:
        yield np.stack(chunk)


def read_captions(folder: Path, keys: list[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The captions of those videos by key, and the reasons of those that have none."""
    values = pa.array(keys, pa.string())
    table = read_table(folder / "captions.parquet", CAPTIONS)
    texts: dict[str, list[str]] = {}
    for row in table.filter(pc.is_in(table["key"], values)).to_pylist():
        texts.setdefault(row["key"], []).append(row["text"])
    failed = read_table(folder / "failures.parquet", FAILURES)
    reasons = {
        row["key"]: f"caption: {row['error']}: {row['message']}"
        for row in failed.filter(pc.is_in(failed["key"], values)).to_pylist()
    }
    return texts, reasons


def run_guide(experiment: Experiment) -> StageRecord:
    """Makes the guide that the experiment names, or what is missing of it: tars, index.parquet, failures.parquet.

    Raises UserError when clips or captions are missing, do not belong together or do not cover each other, when
    the model cannot be loaded, or when too many videos fail.
    """
    spec = guide_spec(experiment)
    workspace = Workspace(Path(experiment.workspace))
    clips, captions = workspace.clips.resolve(), workspace.captions(experiment.captions).resolve()
    index = read_table(clips / "index.parquet", CLIP_INDEX)
    _check_captions(workspace, experiment.captions, index)
    settled, stride, folder = _settled(experiment), experiment.text.frame_stride, spec.folder.resolve()
    return build(
        spec,
        units=_units(index.to_pylist()),
        worker=lambda: GuideWorker(make_guide(settled), clips, captions, folder, stride),
        schema=GUIDE_INDEX,
        table=TABLE,
        ray=experiment.ray,
        max_failures=experiment.max_failures,
        tools=["open_clip_torch", "torch", "av", "webdataset"],
        holds_model=True,
    )


def _units(index: list[Row]) -> list[Unit]:
    """One for each tar of the clips, in the order of the index."""
    return [Unit(shard, list(rows)) for shard, rows in groupby(index, key=itemgetter("shard"))]


def _check_captions(workspace: Workspace, source: str, index: pa.Table) -> None:
    """Every clip must have captions, or a recorded reason why it has none."""
    redo = f"tgmae caption {workspace.root} --source {source}"
    folder = workspace.captions(source)
    made_from = [
        required_record(workspace.clips, f"tgmae shard {workspace.root}").inputs["manifest"],
        required_record(folder, redo).inputs["manifest"],
    ]
    if made_from[0] != made_from[1]:
        raise UserError(
            f"{workspace.clips} and {folder} were made from different manifests: run "
            f"`tgmae shard {workspace.root}` and `{redo}`, which rebuild what is not of the present one"
        )
    captioned = read_table(folder / "captions.parquet", CAPTIONS)["key"]
    failed = read_table(folder / "failures.parquet", FAILURES)["key"]
    silent = index.filter(pc.invert(pc.is_in(index["key"], captioned.combine_chunks())))
    unknown = silent.filter(pc.invert(pc.is_in(silent["key"], failed.combine_chunks())))
    if unknown.num_rows:
        names = unknown["video_id"].slice(0, 3).to_pylist()
        raise UserError(
            f"caption set {source!r} does not cover the clips: {unknown.num_rows} of {index.num_rows} videos have "
            f"neither a caption nor a recorded failure ({', '.join(names)}{', ...' if unknown.num_rows > 3 else ''}). "
            f"Delete {folder} and run `{redo}`"
        )
    if silent.num_rows:
        print(
            f"guide: {silent.num_rows} of {index.num_rows} videos have no caption and get no maps; "
            f"{folder / 'failures.parquet'} says why",
            file=sys.stderr,
        )


def _settled(experiment: Experiment) -> Experiment:
    """A model folder or file by its full path: Ray's workers may run in another folder."""
    text, prefix = experiment.text, "local-dir:"
    update = {}
    if text.model.startswith(prefix):
        update["model"] = prefix + str(Path(text.model.removeprefix(prefix)).resolve())
    elif Path(text.pretrained).is_file():
        update["pretrained"] = str(Path(text.pretrained).resolve())
    return experiment.model_copy(update={"text": text.model_copy(update=update)})
