"""The unit of work of every stage that runs on Ray: one shard. Plain classes, testable without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

Row = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """One shard to make, from these rows (of the manifest, or of the clips' index) in this order."""

    shard: int
    rows: list[Row]


@dataclass(frozen=True)
class ShardResult:
    """What a worker says of a shard whose files it has written whole."""

    shard: int
    rows: list[Row]  # of the stage's table, in the order of the shard
    failures: list[Row]  # of schemas.tables.FAILURES
    files: dict[str, str] = field(default_factory=dict)  # name under the stage's folder -> sha256
    seconds: dict[str, float] = field(default_factory=dict)  # read, compute, write: where the time went
    side: dict[str, list[Row]] = field(default_factory=dict)  # rows of further tables, by file name

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Advance(int):
    """So many more videos are finished, by that worker, in that shard."""

    worker: str
    shard: int

    @classmethod
    def by(cls, count: int, worker: str, shard: int) -> Advance:
        made = cls(count)
        made.worker, made.shard = worker, shard
        return made


class Worker(Protocol):
    """Holds what is expensive to build (a model); made once in each actor.

    `run` yields 1 whenever a video is finished, well or badly, and at last the ShardResult. An error of
    one video becomes a row of failures; an exception out of `run` is a fault of the stage and stops it.
    """

    def run(self, unit: Unit) -> Iterator[int | ShardResult]: ...
