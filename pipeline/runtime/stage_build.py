"""How a stage of shards is built: what is missing, and only that; merged and recorded when whole.

A shard is the unit of work, of retry and of resume. Its files are written whole by a worker, then its
ShardResult is kept as `.parts/NNNNNN.json`: absent means make it again. stage.json is written last.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from pipeline.runtime.budget import exceeds_budget
from pipeline.runtime.engine import execute
from pipeline.runtime.units import ShardResult, Unit, Worker
from schemas.atomic import TEMPORARY, sha256_file, write_bytes, write_json
from schemas.config import Ray
from schemas.errors import UserError
from schemas.foreign import shown
from schemas.stage import FILE, StageRecord, StageSpec, read_record, write_record
from schemas.tables import FAILURES, write_table

PARTS = ".parts"


def build(
    spec: StageSpec,
    *,
    units: list[Unit],
    worker: Callable[[], Worker],
    schema: pa.Schema,
    table: str,
    ray: Ray,
    max_failures: str,
    tools: Sequence[str],
    holds_model: bool = False,
    here: bool = False,
    side: Mapping[str, pa.Schema] | None = None,
    notes: Mapping[str, bytes] | None = None,
    runtime_env: Mapping[str, Any] | None = None,
) -> StageRecord:
    """Makes the stage that `spec` describes, or what is missing of it, and returns its record.

    `table` (rows of `schema`, in shard order) and failures.parquet are merged from the shards' results, and so are
    the tables of `side`, by file name. `notes` are files to lay beside them. Work that is `here` is too little for
    a cluster and runs in this process. `runtime_env` is Ray's: an environment of the workers' own.
    Raises UserError when failures exceed `max_failures` or when nothing at all came out.
    """
    started = time.perf_counter()
    record = read_record(spec.folder)
    if record is not None and record.fingerprint == spec.fingerprint:
        return record
    parts = prepare(spec, record, units)
    before_now = () if here else parts.glob("[0-9]*.json")  # what is made here is made whole
    done = {int(path.stem): ShardResult(**json.loads(path.read_bytes())) for path in before_now}
    pending = [unit for unit in units if unit.shard not in done]
    total = sum(len(unit.rows) for unit in units)
    failed = sum(len(result.failures) for result in done.values())
    before = total - sum(len(unit.rows) for unit in pending)
    if done:
        print(f"{spec.stage}: {len(done)} of {len(units)} shards are there already", file=sys.stderr)
    with tqdm(total=total, initial=before, desc=spec.stage, unit="video", disable=not pending) as bar:
        events = (
            _run_here(pending, worker)
            if here
            else execute(pending, worker, ray, holds_model=holds_model, runtime_env=runtime_env)
        )
        for event in events if pending else ():
            if isinstance(event, int):
                bar.update(event)
                continue
            write_json(parts / f"{event.shard:06d}.json", event.to_json())
            done[event.shard] = event
            failed += len(event.failures)
            bar.set_postfix(failed=failed)
            if exceeds_budget(failed, total, max_failures):
                raise UserError(_over_budget(spec.stage, done, failed, total, max_failures))
    for name, content in (notes or {}).items():
        write_bytes(spec.folder / name, content)
    tables = {table: schema, **(side or {})}
    return _finish(spec, [done[unit.shard] for unit in units], tables, list(notes or {}), tools, started)


def _run_here(units: Sequence[Unit], make_worker: Callable[[], Worker]) -> Iterator[int | ShardResult]:
    worker = make_worker()
    for unit in units:
        yield from worker.run(unit)


def prepare(spec: StageSpec, record: StageRecord | None, units: Sequence[Unit] = ()) -> Path:
    """A folder that holds nothing but parts of this very spec, cut in these units; returns the folder of the parts."""
    parts = spec.folder / PARTS
    mark = parts / "spec.json"
    keys = json.dumps([[unit.shard, *(row["key"] for row in unit.rows)] for unit in units])
    wanted = {"fingerprint": spec.fingerprint, "units": hashlib.sha256(keys.encode()).hexdigest()}
    begun = json.loads(mark.read_bytes()) if mark.is_file() else None
    if record is not None or begun not in (None, wanted):
        reasons = (
            spec.differences(record) if record is not None else ["the config changed while the stage was incomplete"]
        )
        print(f"{spec.stage}: made anew, because {shown('; '.join(reasons))}", file=sys.stderr)
        # stage.json first: should we be stopped between, the rest counts as incomplete, never as whole.
        (spec.folder / FILE).unlink(missing_ok=True)
        shutil.rmtree(spec.folder)
    elif begun is None and spec.folder.is_dir() and any(spec.folder.iterdir()):
        raise UserError(f"{spec.folder} holds files that tgmae did not write: move them, or choose another workspace")
    for leftover in spec.folder.glob(f".*{TEMPORARY}"):
        leftover.unlink()
    write_json(mark, wanted)
    return parts


def tool_versions(names: Sequence[str]) -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _finish(
    spec: StageSpec,
    results: list[ShardResult],
    tables: Mapping[str, pa.Schema],
    notes: Sequence[str],
    tools: Sequence[str],
    started: float,
) -> StageRecord:
    """Writes the tables, of which the first is the stage's own, and the record."""
    rows = [row for result in results for row in result.rows]
    failures = [row for result in results for row in result.failures]
    write_table(spec.folder / "failures.parquet", failures, FAILURES)
    if not rows:
        first = failures[0]["message"] if failures else "there was nothing to do"
        for part in (spec.folder / PARTS).glob("[0-9]*.json"):
            part.unlink()  # so that the next run tries again
        raise UserError(f"{spec.stage}: nothing came out of {len(failures)} videos. The first said: {first}")
    for number, (name, schema) in enumerate(tables.items()):
        beside = [row for result in results for row in result.side.get(name, [])]
        write_table(spec.folder / name, beside if number else rows, schema)
    files = {name: digest for result in results for name, digest in result.files.items()}
    files |= {name: sha256_file(spec.folder / name) for name in (*tables, *notes, "failures.parquet")}
    seconds: Counter[str] = Counter()
    for result in results:
        seconds.update(result.seconds)
    failed_keys = {row["key"] for row in failures}
    record = StageRecord(
        stage=spec.stage,
        fingerprint=spec.fingerprint,
        config=spec.config,
        inputs=spec.inputs,
        output=hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        counts={
            "done": len({row["key"] for row in rows} - failed_keys),
            "failed": len(failed_keys),
            "shards": len(results),
        },
        failed=dict(Counter(row["error"] for row in failures)),
        tools=tool_versions(tools),
        info={**spec.info, "worker_seconds": {name: round(value, 3) for name, value in seconds.items()}},
        seconds=round(time.perf_counter() - started, 3),
    )
    write_record(spec.folder, record)
    shutil.rmtree(spec.folder / PARTS)
    return record


def _over_budget(stage: str, done: dict[int, ShardResult], failed: int, total: int, budget: str) -> str:
    rows = [row for result in done.values() for row in result.failures]
    worst, count = Counter(row["message"] for row in rows).most_common(1)[0]
    return (
        f"{stage}: {failed} of {total} videos failed, more than max_failures = {budget!r} allows. "
        f"Most frequent ({count}): {worst}. Set max_failures higher to go on; what is done is kept"
    )
