"""Workers that write tars, made in parts and joined. Ray's workers import this, and torch with webdataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.runtime.tars import new_shard
from pipeline.runtime.units import ShardResult, Unit
from schemas.atomic import sha256_file
from schemas.tables import failure
from tests.pipeline.runtime.misbehaving import die_once, misbehave


class Stamp:
    """Writes a sample a video; each tenth fails; at `die` the process is killed once, `broken` stops the stage."""

    def __init__(self, folder: Path, log: Path, *, die: str = "", broken: str = "") -> None:
        self.folder, self.log, self.die, self.broken = folder, log, die, broken

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        rows, failures, path = [], [], self.folder / unit.tar
        with new_shard(path) as tar:
            for row in unit.rows:
                name = row["video_id"]
                misbehave(name, self.log, die=self.die, broken=self.broken)
                with open(self.log, "a") as log:
                    log.write(f"{name}\n")
                if name.endswith("7.mp4"):
                    failures.append(failure(name, "toy", ValueError("a bad video")))
                else:
                    offset, length = tar.add(row["key"], {"txt": name.encode() * 100})
                    place = {"shard": unit.shard, "offset": offset, "length": length}
                    rows.append({"key": row["key"], **place, "maps": 1})
                yield 1
        yield ShardResult(unit.shard, rows, failures, {unit.tar: sha256_file(path)}, {"compute": 1.0})


class DiesAfterwards(Stamp):
    """Once, when its result has been told."""

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        yield from super().run(unit)
        die_once(self.log, after=1)
