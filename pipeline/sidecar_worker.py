"""Tars next to the clips': the keys of `clips/NNNNNN.tar` in the same order, and what was made of each video."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipeline.guides import Array, Reader
from pipeline.guides.shard_captions import read_captions
from pipeline.media.video import NoFrames, VideoError, as_video_error
from pipeline.runtime.prefetch import read_ahead
from pipeline.runtime.tars import new_shard, read_sample
from pipeline.runtime.units import Row, ShardResult, Unit
from schemas.atomic import sha256_file
from schemas.errors import UserError
from schemas.shards import GuideMeta, guide_meta, meta_bytes
from schemas.tables import failure
from schemas.tar_sample import Fields
from schemas.workspace import shard_name

AHEAD = 4  # chunks decoded before they are asked for
Chunk = Array | VideoError | None


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
    ) -> None:
        """`clips` and `captions` are folders of those stages, `captions` None where none are needed; `folder` takes
        the tars; `read` makes chunks of a `member` of `clips`, None: no video is looked at."""
        self._clips, self._captions, self._folder = clips, captions, folder
        self._stride, self._read, self._member = frame_stride, read, member

    def fields(self, meta: GuideMeta, chunks: Iterator[Any], captions: list[str]) -> tuple[Fields, int]:
        """The members of a video's sample, and how many maps, or the like, are in it.

        Any exception is about this video alone, but for a UserError.
        """
        raise NotImplementedError

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        clock = {"read": 0.0, "compute": 0.0, "write": 0.0}
        keys = [row["key"] for row in unit.rows]
        texts, reasons = read_captions(self._captions, keys) if self._captions else ({key: [] for key in keys}, {})
        wanted = [row for row in unit.rows if row["key"] in texts]
        videos = groupby(read_ahead(self.decoded(unit.shard, wanted), ahead=AHEAD), key=itemgetter(0))
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
                    began, read = time.perf_counter(), clock["read"]
                    try:
                        fields, maps = self.fields(meta, _timed((chunk for _, chunk in chunks), clock), texts[key])
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
        yield ShardResult(unit.shard, rows, failures, {path.name: sha256_file(path)}, clock)

    def decoded(self, shard: int, rows: list[Row]) -> Iterator[tuple[str, Chunk]]:
        """(key, chunk) of all videos in order; at least one each, an error being the last of its video. None is the
        chunk of a video that is not looked at."""
        if self._read is None or not rows:
            yield from ((row["key"], None) for row in rows)
            return
        path = self._clips / shard_name(shard)
        if not path.is_file():
            folder = self._clips
            raise UserError(f"{path} is missing, though {folder}'s index names it: delete {folder} and make it again")
        with open(path, "rb") as tar:
            for row in rows:
                sample = read_sample(tar, row["offset"], row["length"], row["key"])
                try:
                    for chunk in self._read(self._content(sample), self._stride, row["frames"]):
                        yield row["key"], chunk
                except UserError:
                    raise
                except Exception as error:  # becomes the video's failure, with its reason
                    yield row["key"], as_video_error(error)

    def _content(self, sample: Fields) -> bytes:
        if self._member not in sample:  # the stage that made `clips` had nothing for this video
            raise NoFrames(f"{self._clips.parent.name}: {guide_meta(sample['json'], str(self._clips)).missing}")
        return sample[self._member]


def _timed(chunks: Iterable[Chunk], clock: dict[str, float]) -> Iterator[Array]:
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
