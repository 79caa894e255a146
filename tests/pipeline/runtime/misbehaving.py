"""Workers of the tests, which misbehave where they are told to. Ray's workers import this: no pytest, no torch."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.runtime.units import ShardResult, Unit
from schemas.atomic import sha256_file
from schemas.errors import UserError
from schemas.tables import failure


def misbehave(name: str, log: Path, *, die: str = "", broken: str = "") -> None:
    """At the video `die` the process is killed, once in the life of `log`; `broken` stops the stage."""
    if name == die:
        die_once(log)
    if name == broken:
        raise UserError(f"the model does not like {name}")


def die_once(log: Path, *, after: float = 0.0) -> None:
    """Kills this process after so many seconds, the first time."""
    if not log.with_suffix(".died").exists():
        log.with_suffix(".died").touch()
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGKILL)


class Toy:
    """Writes a file a shard; misbehaves as its options say, once or always."""

    def __init__(self, folder: Path, log: Path, *, bad: str = "", die: str = "", broken: str = "") -> None:
        self.folder, self.log, self.bad, self.die, self.broken = folder, log, bad, die, broken

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        with open(self.log, "a") as log:
            log.write(f"{unit.shard}\n")
        rows, failures = [], []
        for row in unit.rows:
            name = row["video_id"]
            misbehave(name, self.log, die=self.die, broken=self.broken)
            if self.bad and self.bad in name:
                failures.append(failure(name, "toy", ValueError("a bad video")))
            else:
                rows.append({"key": row["key"], "shard": unit.shard, "offset": 0, "length": 1, "maps": 1})
            yield 1
        path = self.folder / unit.tar
        path.write_text(json.dumps(rows))
        yield ShardResult(unit.shard, rows, failures, {unit.tar: sha256_file(path)}, {"compute": 0.0})
