"""What a stage of shards asks for: the units to make, who makes them, and what is merged of the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.runtime.units import Row, Unit, Worker
from schemas.stage import StageSpec


@dataclass(frozen=True, kw_only=True)
class Job:
    spec: StageSpec
    units: list[Unit]  # a shard each
    step: int = 1  # videos of a shard that are never parted between workers; 0: all
    cost: Callable[[Row], float] = lambda row: 1.0  # about how long a video takes, of any unit
    worker: Callable[[Path], Worker]  # called where the work is done, with the folder that takes the files
    table: str  # file name of the stage's table, rows in shard order
    schema: pa.Schema  # of the table
    tools: Sequence[str]  # libraries whose versions are recorded
    side: Mapping[str, pa.Schema] = field(default_factory=dict)  # further tables, by file name
    notes: Mapping[str, bytes] = field(default_factory=dict)  # files to put next to the tables
    holds_model: bool = False
    in_process: bool = False  # too little work for a cluster
    runtime_env: Mapping[str, Any] | None = None  # Ray's: an environment of the workers' own
