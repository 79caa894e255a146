"""The caption stage: what each video shows, in words, a caption a keyframe (section 3.2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.caption_sets import (
    UNKNOWN,
    caption_group,
    captioner_maker,
    row_source,
    source_tools,
    with_batch_size,
)
from pipeline.captioners import (
    Frame,
    FrameCaptioner,
    NoCaption,
    RowCaptioner,
    SamplingCaptioner,
    TimedText,
    seed_of,
)
from pipeline.captioners.cleaning import cleaned
from pipeline.captioners.lavis_environment import lavis_environment
from pipeline.media.keyframes import Wanted, placed_keyframes
from pipeline.media.processes import Isolated
from pipeline.media.video import TIME_LIMIT, as_video_error
from pipeline.runtime.cores import decoding_threads
from pipeline.runtime.job import Job
from pipeline.runtime.model_check import check_captioner
from pipeline.runtime.prefetch import map_ahead
from pipeline.runtime.ray_session import shared_ray
from pipeline.runtime.stage_build import build
from pipeline.runtime.units import Row, ShardResult, Unit, Worker
from pipeline.shard import segment_frames
from pipeline.stage_specs import caption_spec
from schemas.config import Blip2, Caption, Clean, Experiment, Section, caption_source
from schemas.errors import UserError
from schemas.foreign_text import is_utf8, shown
from schemas.stage import TO_FIND, StageRecord, StageSpec, current_record, required_record
from schemas.tables import CAPTIONS, CHANGES, MANIFEST, failure, read_table
from schemas.workspace import Workspace

STAGE = "caption"


class BadCaption(ValueError):
    """A text that no table can hold."""


TABLE = "captions.parquet"
CHANGED = "changes.parquet"


@dataclass
class Video:
    """A video on its way through the model: the keyframes still due, the texts so far, or why it failed."""

    row: Row
    due: int
    texts: list[TimedText] = field(default_factory=list)
    error: Exception | None = None


@dataclass(frozen=True)
class Keyframe:
    """A frame that waits for its caption."""

    video: Video
    index: int
    time: float  # seconds
    pixels: Frame


class RowWorker:
    """Captions from the manifest alone."""

    def __init__(self, captioner: RowCaptioner, clean: Clean) -> None:
        self._captioner, self._clean = captioner, clean

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        videos: list[Video] = []
        for row in unit.rows:
            video = Video(row, 0)
            try:
                video.texts = self._captioner.describe(row)
            except UserError:
                raise
            except Exception as error:  # becomes the video's failure, with its reason
                video.error = error if isinstance(error, ValueError) else as_video_error(error)
            videos.append(video)
            yield 1
        yield _result(unit.shard, videos, {}, self._clean)


class CaptionWorker:
    """Captions of keyframes. Threads decode the next videos while the model works on full batches.

    Which frames share a batch changes the last bits of a model's numbers, so it must not depend on how the work is
    divided: a batch takes the frames of one group of videos, those of one size together, and a shard is cut into
    groups from its first video on.
    """

    def __init__(
        self, captioner: FrameCaptioner, data: Path, options: Caption, group: int = UNKNOWN, memory: int = 0
    ) -> None:
        """`group`: videos; a video may take `memory` bytes; 0: what there is."""
        self._captioner, self._data, self._options, self._group = captioner, data, options, group
        self._threads = decoding_threads(options.decode_threads)
        self._placed = Isolated(placed_keyframes, time_limit=2 * TIME_LIMIT, memory=memory)

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        clock = {"read": 0.0, "compute": 0.0}  # seconds waited for frames, and for the model
        threads = self._threads
        ahead = max(2 * threads, self._group)
        videos: list[Video] = []
        frames_by_size: dict[tuple[int, ...], list[Keyframe]] = {}  # of the present group
        began = time.perf_counter()
        for place, (row, frames) in enumerate(
            map_ahead(self._decode, unit.rows, threads=threads, ahead=ahead), unit.first + 1
        ):
            clock["read"] += time.perf_counter() - began
            began = time.perf_counter()
            if isinstance(frames, Exception):
                videos.append(Video(row, 0, error=frames))
                yield 1
            else:
                video = Video(row, len(frames))
                videos.append(video)
                for index, moment, pixels in frames:
                    frames_by_size.setdefault(pixels.shape, []).append(Keyframe(video, index, moment, pixels))
            if place % self._group == 0 or len(videos) == len(unit.rows):
                yield from self._caption_group([frame for frames in frames_by_size.values() for frame in frames])
                frames_by_size = {}
            clock["compute"] += time.perf_counter() - began
            began = time.perf_counter()
        yield _result(unit.shard, videos, clock, self._options.clean)

    def _decode(self, row: Row) -> list[tuple[int, float, Frame]]:
        """(index, seconds, pixels) of each keyframe, placed among the frames that there really are."""
        options, start = self._options, row["start"] or 0.0
        seed = seed_of(options.seed, row["video_id"]) if options.placing == "random" else None
        path = self._data / row["path"]
        found = self._placed.run(Wanted(path, options.keyframes, seed, segment_frames(row), row["start"], row["end"]))
        return [
            (frame.index, start + frame.index / row["fps"] if frame.time is None else frame.time, frame.pixels)
            for frame in found
        ]

    def _caption_group(self, frames: list[Keyframe]) -> Iterator[int]:
        size = self._captioner.batch_size  # the model may lower its own when memory runs out
        for first in range(0, len(frames), size):
            yield from self._caption(frames[first : first + size])

    def _caption(self, batch: list[Keyframe]) -> Iterator[int]:
        """Captions a batch; yields 1 for each video that has no keyframe left."""
        for frame, text in zip(batch, self._texts(batch), strict=True):
            video = frame.video
            if isinstance(text, Exception):
                video.error = video.error or text
            else:
                video.texts.append(TimedText(text, frame.index, frame.time))
            video.due -= 1
            if video.due == 0:
                yield 1

    def _texts(self, batch: list[Keyframe]) -> list[str | Exception]:
        """The batch at once; where that fails, one by one, so that a bad frame costs only its own video."""
        captioner, frames = self._captioner, [frame.pixels for frame in batch]
        try:
            if isinstance(captioner, SamplingCaptioner) and captioner.samples:
                seeds = [seed_of(self._options.seed, frame.video.row["video_id"], frame.index) for frame in batch]
                return list(captioner.caption_seeded(frames, seeds))
            return list(captioner.caption(frames))
        except UserError:
            raise
        except Exception as error:  # becomes the video's failure, with its reason
            if len(batch) == 1:
                return [error]
        return [self._texts([frame])[0] for frame in batch]


def _result(shard: int, videos: list[Video], clock: dict[str, float], clean: Clean) -> ShardResult:
    rows: list[Row] = []
    failures: list[Row] = []
    changes: list[Row] = []
    for video in videos:
        about = {"key": video.row["key"], "video_id": video.row["video_id"]}
        kept: list[TimedText] = []
        mended: list[Row] = []
        if odd := [text.text for text in video.texts if not is_utf8(text.text)]:
            video.error, video.texts = BadCaption(f"a caption is not UTF-8: {shown(odd[0])}"), []
        for text in video.texts:
            before = " ".join(text.text.split())
            after, steps = cleaned(before, clean) if clean.enabled else (before, [])
            if steps:
                number = len(kept) if after else None
                mended.append({**about, "caption": number, "steps": "+".join(steps), "before": before, "after": after})
            if after:
                kept.append(text._replace(text=after))
        error = video.error or (None if kept else NoCaption(_nothing(mended)))
        if error is not None:
            failures.append(failure(about["video_id"], STAGE, error))
            mended = [{**row, "caption": None} for row in mended]
        else:
            rows += [{**about, "caption": number, **text._asdict()} for number, text in enumerate(kept)]
        changes += mended
    return ShardResult(shard, rows, failures, seconds=clock, side={CHANGED: changes} if clean.enabled else {})


def _nothing(mended: list[Row]) -> str:
    if not mended:
        return "no caption: the captioner's text is empty"
    return f"no caption: cleaning left nothing of {mended[0]['before']!r}"


def _row_worker(captioner: RowCaptioner, clean: Clean, _: Path) -> RowWorker:
    return RowWorker(captioner, clean)


def _frame_worker(
    make: Callable[[], FrameCaptioner], experiment: Experiment, data: Path, group: int, _: Path
) -> CaptionWorker:
    """Called where the work is done: it loads the model."""
    return CaptionWorker(make(), data, experiment.caption, group, experiment.ray.decoder_bytes)


def caption_units(manifest: list[Row], size: int) -> list[Unit]:
    """The manifest in the order of its keys, cut every `size` videos."""
    rows = sorted(manifest, key=lambda row: str(row["key"]))
    return [Unit(n, rows[first : first + size]) for n, first in enumerate(range(0, len(rows), size))]


def run_caption(experiment: Experiment) -> StageRecord:
    """Makes the caption set `experiment.captions`, or what is missing of it.

    Writes captions.parquet and failures.parquet, with caption.clean changes.parquet, and what the source adds.
    Raises UserError when the manifest is missing, the source cannot be used, or too many videos fail.
    """
    spec = caption_spec(experiment)
    record = current_record(spec)
    if record is not None:
        return record  # before a source is read or a model asked
    workspace = Workspace(Path(experiment.workspace))
    index = required_record(workspace.manifest, f"tgmae index DATA --out {workspace.root}")
    manifest = read_table(workspace.manifest / "manifest.parquet", MANIFEST).to_pylist()
    source, data = caption_source(experiment.captions), Path(index.info["data"])
    caption = _settled(experiment.caption, source, spec)
    settled = experiment.model_copy(update={"caption": caption})
    check_captioner(source, caption)
    lavis = source == "lavis"
    env = lavis_environment(caption.lavis, cluster=bool(experiment.ray.cluster)) if lavis else None
    if spec.chosen.get("batch_size") == TO_FIND:
        with shared_ray():
            return run_caption(with_batch_size(source, settled, manifest, env))
    rows = row_source(settled, manifest)
    clean = Clean() if "+" in experiment.captions else caption.clean  # a mix takes its parts as they are
    group = caption_group(source, caption)
    worker: Callable[[Path], Worker]
    if rows is not None:
        worker = partial(_row_worker, rows.captioner, clean)
    else:
        worker = partial(_frame_worker, captioner_maker(source, settled), settled, data, group)
    job = Job(
        spec=spec,
        units=caption_units(manifest, caption.videos_per_shard),
        step=group,
        worker=worker,
        schema=CAPTIONS,
        table=TABLE,
        tools=source_tools(source),
        holds_model=True,
        runtime_env=env,
        in_process=rows is not None,
        side={CHANGED: CHANGES} if clean.enabled else {},
        notes={} if rows is None else rows.notes,
    )
    return build(job, experiment)


def _settled(caption: Caption, source: str, spec: StageSpec) -> Caption:
    """The dtype of the spec; model folders and files by their full path: Ray's workers may run in another folder."""
    if spec.chosen:
        section = getattr(caption, source).model_copy(update=spec.chosen)
        caption = caption.model_copy(update={source: section})
    update: dict[str, Section] = {
        name: options.model_copy(update={"model": str(Path(options.model).resolve())})
        for name, options in caption
        if isinstance(options, Blip2) and Path(options.model).is_dir()
    }
    if caption.lavis.models:
        models = str(Path(caption.lavis.models).resolve())
        update["lavis"] = caption.lavis.model_copy(update={"models": models})
    return caption.model_copy(update=update)
