"""The caption stage: what each video shows, in words, a caption a keyframe (section 3.2)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.captioners import Frame, FrameCaptioner, RowCaptioner, keyframe_indices, make_captioner
from pipeline.decoding import read_frames
from pipeline.prefetch import map_ahead
from pipeline.shard import segment_frames
from pipeline.specs import caption_spec
from pipeline.stage import build
from pipeline.units import Row, ShardResult, Unit, Worker
from schemas.config import Caption, Experiment
from schemas.errors import UserError
from schemas.stage import StageRecord, required_record
from schemas.tables import CAPTIONS, MANIFEST, failure, read_table
from schemas.workspace import Workspace

STAGE = "caption"
TABLE = "captions.parquet"


class NoCaption(ValueError):
    pass


@dataclass(frozen=True)
class Moment:
    """When a keyframe is; a caption of the whole video has none."""

    frame: int | None = None  # in the source, or in the segment
    time: float | None = None  # seconds from the start of the file


@dataclass
class Video:
    """A video on its way through the model: the keyframes still due, what was said so far, or why it failed."""

    row: Row
    due: int
    said: list[tuple[Moment, str]] = field(default_factory=list)
    error: Exception | None = None


class RowWorker:
    """Captions from the manifest alone."""

    def __init__(self, captioner: RowCaptioner) -> None:
        self._captioner = captioner

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        videos: list[Video] = []
        for row in unit.rows:
            video = Video(row, 0)
            try:
                video.said = [(Moment(), text) for text in self._captioner.describe(row)]
            except ValueError as error:
                video.error = error
            videos.append(video)
            yield 1
        yield _result(unit.shard, videos, {})


class CaptionWorker:
    """Captions of keyframes. Threads decode the next videos while the model works on full batches.

    Which frames share a batch depends on the unit alone: they are taken in its order, across videos.
    """

    def __init__(self, captioner: FrameCaptioner, data: Path, options: Caption) -> None:
        self._captioner, self._data, self._options = captioner, data, options

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        clock = {"read": 0.0, "compute": 0.0}  # seconds waited for frames, and for the model
        batch_size = self._captioner.batch_size  # the model may lower its own when memory runs out
        threads = self._options.decode_threads
        ahead = max(2 * threads, -(-batch_size // self._options.keyframes))
        videos: list[Video] = []
        queue: list[tuple[Video, Moment, Frame]] = []
        began = time.perf_counter()
        for row, keyframes in map_ahead(self._decode, unit.rows, threads=threads, ahead=ahead):
            clock["read"] += time.perf_counter() - began
            if isinstance(keyframes, Exception):
                videos.append(Video(row, 0, error=keyframes))
                yield 1
            else:
                video = Video(row, len(keyframes))
                videos.append(video)
                queue += [(video, moment, frame) for moment, frame in keyframes]
            began = time.perf_counter()
            while len(queue) >= batch_size:
                yield from self._caption(queue[:batch_size])
                del queue[:batch_size]
            clock["compute"] += time.perf_counter() - began
            began = time.perf_counter()
        if queue:
            yield from self._caption(queue)
        clock["compute"] += time.perf_counter() - began
        yield _result(unit.shard, videos, clock)

    def _decode(self, row: Row) -> list[tuple[Moment, Frame]]:
        start = row["start"] or 0.0
        indices = keyframe_indices(segment_frames(row), self._options.keyframes)
        frames = read_frames(self._data / row["path"], indices, start=row["start"], end=row["end"])
        return [(Moment(i, start + i / row["fps"]), frame) for i, frame in zip(indices, frames, strict=True)]

    def _caption(self, batch: list[tuple[Video, Moment, Frame]]) -> Iterator[int]:
        """Captions a batch; yields 1 for each video that has no keyframe left."""
        texts = self._texts([frame for _, _, frame in batch])
        for (video, moment, _), text in zip(batch, texts, strict=True):
            if isinstance(text, Exception):
                video.error = video.error or text
            else:
                video.said.append((moment, text))
            video.due -= 1
            if video.due == 0:
                yield 1

    def _texts(self, frames: list[Frame]) -> list[str | Exception]:
        """The batch at once; where that fails, one by one, so that a bad frame costs only its own video."""
        try:
            return list(self._captioner.caption(frames))
        except UserError:
            raise
        except Exception as error:  # becomes the video's failure, with its reason
            if len(frames) == 1:
                return [error]
        return [self._texts([frame])[0] for frame in frames]


def _result(shard: int, videos: list[Video], clock: dict[str, float]) -> ShardResult:
    rows: list[Row] = []
    failures: list[Row] = []
    for video in videos:
        texts = [(moment, " ".join(text.split())) for moment, text in video.said]
        texts = [(moment, text) for moment, text in texts if text]
        error = video.error or (None if texts else NoCaption("no caption: the captioner's text is empty"))
        name = video.row["video_id"]
        if error is not None:
            failures.append(failure(name, STAGE, error))
            continue
        for number, (moment, text) in enumerate(texts):
            place = {"frame": moment.frame, "time": moment.time}
            rows.append({"key": video.row["key"], "video_id": name, "caption": number, "text": text, **place})
    return ShardResult(shard, rows, failures, seconds=clock)


def make_worker(source: str, caption: Caption, data: Path) -> Worker:
    """Called where the work is done: it loads the model."""
    captioner = make_captioner(source, caption)
    if isinstance(captioner, RowCaptioner):
        return RowWorker(captioner)
    return CaptionWorker(captioner, data, caption)


def caption_units(manifest: list[Row], size: int) -> list[Unit]:
    """The manifest in the order of its keys, cut every `size` videos."""
    rows = sorted(manifest, key=lambda row: str(row["key"]))
    return [Unit(n, rows[first : first + size]) for n, first in enumerate(range(0, len(rows), size))]


def run_caption(experiment: Experiment) -> StageRecord:
    """Makes the caption set `experiment.captions`, or what is missing of it: captions.parquet, failures.parquet.

    Raises UserError when the manifest is not there, the model cannot be loaded, or too many videos fail.
    """
    workspace = Workspace(Path(experiment.workspace))
    index = required_record(workspace.manifest, f"tgmae index DATA --out {workspace.root}")
    manifest = read_table(workspace.manifest / "manifest.parquet", MANIFEST).to_pylist()
    source, caption, data = experiment.captions, _settled(experiment.caption), Path(index.info["data"])
    return build(
        caption_spec(experiment),
        units=caption_units(manifest, caption.videos_per_shard),
        worker=lambda: make_worker(source, caption, data),
        schema=CAPTIONS,
        table=TABLE,
        ray=experiment.ray,
        max_failures=experiment.max_failures,
        tools=["transformers", "torch", "av"],
        holds_model=source != "oracle",
    )


def _settled(caption: Caption) -> Caption:
    """A model folder by its full path: Ray's workers may run in another folder."""
    model = Path(caption.blip2.model)
    if not model.is_dir():
        return caption
    return caption.model_copy(update={"blip2": caption.blip2.model_copy(update={"model": str(model.resolve())})})
