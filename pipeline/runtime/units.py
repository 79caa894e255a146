"""The unit of work of every stage that runs on Ray: some videos of one shard. Plain classes, testable without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from schemas.stage import PARTS
from schemas.workspace import shard_name

Row = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """A shard to make, or a part of one: these rows (of the manifest, or of the clips' index) in this order."""

    shard: int
    rows: list[Row]
    first: int = 0  # place of rows[0] in the shard
    whole: bool = True  # whether this is all of the shard

    @property
    def tar(self) -> str:
        """Where its samples go, under the stage's folder: the shard itself, or what is joined to it later."""
        return shard_name(self.shard) if self.whole else f"{PARTS}/{self.name}.tar"

    def beside(self, name: str) -> str:
        """Where a file of the shard that is no tar goes, under the stage's folder; shared by all of its parts."""
        return name if self.whole else f"{PARTS}/{self.shard:06d}/{name}"

    @property
    def name(self) -> str:
        """Of a part: a folder for its shard, and the rows from the first up to before the last number."""
        return f"{self.shard:06d}/{self.first:06d}-{self.first + len(self.rows):06d}"


@dataclass(frozen=True)
class ShardResult:
    """What a worker says of a unit whose files it has written whole."""

    shard: int
    rows: list[Row]  # of the stage's table, in the order of the shard
    failures: list[Row]  # of schemas.tables.FAILURES
    files: dict[str, str] = field(default_factory=dict)  # name under the stage's folder -> sha256
    seconds: dict[str, float] = field(default_factory=dict)  # read, compute, write: where the time went
    side: dict[str, list[Row]] = field(default_factory=dict)  # rows of further tables, by file name

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Made:
    """A unit, and what its worker said of it."""

    unit: Unit
    result: ShardResult


class Advance(int):
    """So many more videos are finished, by that worker, in that unit, of which `done` are finished now."""

    worker: str
    unit: Unit
    done: int

    @classmethod
    def by(cls, count: int, worker: str, unit: Unit, done: int) -> Advance:
        made = cls(count)
        made.worker, made.unit, made.done = worker, unit, done
        return made


class Worker(Protocol):
    """Holds what is expensive to build (a model); made once in each actor.

    `run` yields 1 whenever a video is finished, well or badly, and at last the ShardResult. An error of
    one video becomes a row of failures; an exception out of `run` is a fault of the stage and stops it.
    What it makes of a video must not depend on where the shard was cut into units.
    """

    def run(self, unit: Unit) -> Iterator[int | ShardResult]: ...
