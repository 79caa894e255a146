"""Tars next to the clips': the keys of `clips/NNNNNN.tar` in the same order, and what was made of each video.

Threads decode the next videos while the model works: a GPU scores far more frames than one core decodes.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.guides import Array, Reader
from pipeline.guides.shard_captions import ShardCaptions
from pipeline.media.video import NoFrames, as_video_error
from pipeline.runtime.cores import decoding_threads
from pipeline.runtime.prefetch import streams_ahead
from pipeline.runtime.tars import new_shard, read_sample
from pipeline.runtime.units import Row, ShardResult, Unit
from schemas.atomic import sha256_file
from schemas.errors import UserError
from schemas.shards import GuideMeta, guide_meta, meta_bytes
from schemas.tables import failure
from schemas.tar_sample import Fields
from schemas.workspace import shard_name

AHEAD = 2  # chunks of a video that are decoded before they are asked for


class SidecarWorker:
    """Makes one tar a unit of the clips of a shard; another thread decodes what comes next."""

    stage: str

    def __init__(
        self,
        clips: Path,
        captions: Path | None,
        folder: Path,
        frame_stride: int,
        read: Reader | None,
        member: str = "mp4",
        threads: int = 0,
    ) -> None:
        """`clips` and `captions` are folders of those stages, `captions` None where none are needed; `folder` takes
        the tars; `read` makes chunks of a `member` of `clips`, None: no video is looked at; `threads` decode, 0: one a
        core."""
        self._clips, self._folder = clips, folder
        self._captions = None if captions is None else ShardCaptions(captions)
        self._stride, self._read, self._member = frame_stride, read, member
        self._threads = decoding_threads(threads)

    def fields(self, meta: GuideMeta, chunks: Iterator[Any], captions: list[str]) -> tuple[Fields, int]:
        """The members of a video's sample, and how many maps, or the like, are in it.

        Any exception is about this video alone, but for a UserError.
        """
        raise NotImplementedError

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        clock = {"read": 0.0, "compute": 0.0, "write": 0.0}
        keys = [row["key"] for row in unit.rows]
        texts, reasons = self._captions.of(keys) if self._captions else ({key: [] for key in keys}, {})
        wanted = [row for row in unit.rows if row["key"] in texts]
        path = self._folder / unit.tar
        rows: list[Row] = []
        failures: list[Row] = []
        # Closed whatever happens: an error's traceback would keep its threads, which wait, and so the process.
        with closing(self.decoded(wanted)) as videos, new_shard(path) as shard:
            for row in unit.rows:
                key, maps = row["key"], 0
                meta = GuideMeta(video_id=row["video_id"], frames=row["frames"], frame_stride=self._stride)
                if key in texts:
                    began, read = time.perf_counter(), clock["read"]
                    _, chunks = next(videos)
                    try:
                        fields, maps = self.fields(meta, _timed(chunks, clock), texts[key])
                    except UserError:
                        raise
                    except Exception as error:  # becomes the video's failure, with its reason
                        problem = failure(row["video_id"], self.stage, error)
                        failures.append(problem)
                        fields = _missing(meta, f"{problem['error']}: {problem['message']}")
                    clock["compute"] += time.perf_counter() - began - (clock["read"] - read)
                else:
                    fields = _missing(meta, reasons[key])
                began = time.perf_counter()
                offset, length = shard.add(key, fields)
                clock["write"] += time.perf_counter() - began
                rows.append({"key": key, "shard": unit.shard, "offset": offset, "length": length, "maps": maps})
                yield 1
        yield ShardResult(unit.shard, rows, failures, {unit.tar: sha256_file(path)}, clock)

    def decoded(self, rows: list[Row]) -> Generator[tuple[Row, Iterator[Array]], None, None]:
        """The chunks of each video, in order; none of a video that is not looked at. They raise VideoError, and
        UserError where the clips themselves are not what their index says."""
        if self._read is None:
            return ((row, iter(())) for row in rows)
        return streams_ahead(self._chunks, rows, threads=min(self._threads, max(1, len(rows))), ahead=AHEAD)

    def _chunks(self, row: Row) -> Iterator[Array]:
        assert self._read is not None
        path = self._clips / shard_name(row["shard"])
        try:
            with open(path, "rb") as tar:
                sample = read_sample(tar, row["offset"], row["length"], row["key"])
        except FileNotFoundError:
            folder = self._clips
            raise UserError(
                f"{path} is missing, though {folder}'s index names it: delete {folder} and make it again"
            ) from None
        try:
            yield from self._read(self._content(sample), self._stride, row["frames"])
        except UserError:
            raise
        except Exception as error:  # becomes the video's failure, with its reason
            raise as_video_error(error) from error

    def _content(self, sample: Fields) -> bytes:
        if self._member not in sample:  # the stage that made `clips` had nothing for this video
            raise NoFrames(f"{self._clips.parent.name}: {guide_meta(sample['json'], str(self._clips)).missing}")
        return sample[self._member]


def _timed(chunks: Iterator[Array], clock: dict[str, float]) -> Iterator[Array]:
    """The time waited for chunks is reading."""
    while True:
        began = time.perf_counter()
        chunk = next(chunks, None)
        clock["read"] += time.perf_counter() - began
        if chunk is None:
            return
        yield chunk


def _missing(meta: GuideMeta, reason: str) -> Fields:
    return {"json": meta_bytes(meta.model_copy(update={"missing": reason}))}
