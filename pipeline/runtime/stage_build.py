"""How a stage of shards is built: what is missing, and only that; merged and recorded when whole.

A shard is the unit of work, of retry and of resume. Its files are written whole by a worker, then its
ShardResult is kept as `.parts/NNNNNN.json`: absent means make it again. stage.json is written last.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.runtime.engine import execute
from pipeline.runtime.failure_budget import exceeds_budget
from pipeline.runtime.job import Job
from pipeline.runtime.stage_folder import building, check_size
from pipeline.runtime.units import Advance, ShardResult, Unit
from schemas.atomic import sha256_file, write_bytes, write_json
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.progress import Progress
from schemas.stage import PARTS, StageRecord, required_record, stored_files, write_record
from schemas.tables import FAILURES, SKIPPED, write_table


def build(job: Job, experiment: Experiment) -> StageRecord:
    """Makes the stage that `job` describes, or what is missing of it, and returns its record.

    The table (in shard order) and failures.parquet are merged from the shards' results, and so are the side tables.
    Raises UserError when failures exceed experiment.max_failures, when nothing at all came out, when far fewer videos
    came out than the finished stage has that would be replaced, or when another process builds the stage.
    """
    started = time.perf_counter()
    total = sum(len(unit.rows) for unit in job.units)
    with building(job.spec, job.units) as folder:
        if folder is not None:
            check_size(job.spec, total, experiment)
            done = _made(job, folder, experiment)
            for name, content in job.notes.items():
                write_bytes(folder / name, content)
            record = _merged(job, folder, [done[unit.shard] for unit in job.units], started)
            check_size(job.spec, record.counts["done"], experiment)
            write_record(folder, record)
    return required_record(job.spec.folder, job.spec.stage)


def _made(job: Job, folder: Path, experiment: Experiment) -> dict[int, ShardResult]:
    """The results of all units, by shard: those of earlier runs, and of the rest as they are made."""
    stage, total = job.spec.stage, sum(len(unit.rows) for unit in job.units)
    done = {} if job.in_process else kept_results(folder)  # what is made in this process is made whole
    pending = [unit for unit in job.units if unit.shard not in done]
    failed = sum(map(_failed, done.values()))
    before = total - sum(len(unit.rows) for unit in pending)
    if done:
        print(f"{stage}: resumes, {len(done)} of {len(job.units)} shards are done", file=sys.stderr)
    sizes, at = {unit.shard: len(unit.rows) for unit in pending}, dict.fromkeys((unit.shard for unit in pending), 0)
    root = Path(experiment.workspace)
    with Progress(stage, total, done=before, hidden=not pending, workspace=root) as progress:
        for event in _events(job, folder, pending, experiment) if pending else ():
            if isinstance(event, int):
                progress.advance(event)
                if isinstance(event, Advance):
                    at[event.shard] += event
                    progress.worker(event.worker, f"shard {event.shard}", at[event.shard], sizes[event.shard])
                continue
            keep_result(folder, event)
            done[event.shard] = event
            failed += _failed(event)
            for row in event.failures:
                progress.event("failure", video=row["video_id"], error=row["error"], message=row["message"])
            progress.event("shard", shard=event.shard, videos=sizes[event.shard], failed=_failed(event),
                           seconds=event.seconds)  # fmt: skip
            progress.advance(0, failed=failed)
            if exceeds_budget(failed, total, experiment.max_failures):
                raise UserError(_over_budget(stage, done, failed, total, experiment.max_failures))
    return done


def _failed(result: ShardResult) -> int:
    return sum(row["error"] not in SKIPPED for row in result.failures)


def _events(job: Job, folder: Path, units: list[Unit], experiment: Experiment) -> Iterator[int | ShardResult]:
    # Ray's workers may run in another folder: a full path.
    make_worker = partial(job.worker, folder.resolve())
    if not job.in_process and not experiment.ray.in_process:
        yield from execute(units, make_worker, experiment.ray, holds_model=job.holds_model, runtime_env=job.runtime_env)
        return
    worker = make_worker()
    for unit in units:
        yield from worker.run(unit)


def keep_result(folder: Path, result: ShardResult) -> None:
    """Records that a shard is done, with the sizes of its files."""
    sizes = {name: (folder / name).stat().st_size for name in result.files}
    write_json(folder / PARTS / f"{result.shard:06d}.json", {**result.to_json(), "sizes": sizes})


def kept_results(folder: Path) -> dict[int, ShardResult]:
    """By shard, the results whose files are all there with their sizes."""
    found = {}
    for path in (folder / PARTS).glob("[0-9]*.json"):
        try:
            part: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError:  # damaged: made again
            continue
        sizes = part.pop("sizes", {})
        files = {name: folder / name for name in part["files"]}
        if all(file.is_file() and file.stat().st_size == sizes.get(name) for name, file in files.items()):
            found[int(path.stem)] = ShardResult(**part)
    return found


def tool_versions(names: Sequence[str]) -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _merged(job: Job, folder: Path, results: list[ShardResult], started: float) -> StageRecord:
    """Writes the tables and returns the record of the whole stage."""
    spec = job.spec
    rows = [row for result in results for row in result.rows]
    failures = [row for result in results for row in result.failures]
    write_table(folder / "failures.parquet", failures, FAILURES)
    if not rows:
        first = failures[0]["message"] if failures else "there was nothing to do"
        for part in (folder / PARTS).glob("[0-9]*.json"):
            part.unlink()  # so that the next run tries again
        raise UserError(f"{spec.stage}: nothing came out of {len(failures)} videos. The first failed: {first}")
    write_table(folder / job.table, rows, job.schema)
    for name, schema in job.side.items():
        write_table(folder / name, [row for result in results for row in result.side.get(name, [])], schema)
    files = {name: digest for result in results for name, digest in result.files.items()}
    beside = (job.table, *job.side, *job.notes, "failures.parquet")
    files |= {name: sha256_file(folder / name) for name in beside}
    seconds: Counter[str] = Counter()
    for result in results:
        seconds.update(result.seconds)
    failed_keys = {row["key"] for row in failures if row["error"] not in SKIPPED}
    skipped = len(failures) - sum(map(_failed, results))
    if skipped:
        print(f"{spec.stage}: {skipped} videos are left out, for they have no label", file=sys.stderr)
    return StageRecord(
        stage=spec.stage,
        fingerprint=spec.fingerprint,
        config=spec.config,
        inputs=spec.inputs,
        output=hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        counts={
            "done": len({row["key"] for row in rows} - failed_keys),
            "failed": len(failed_keys),
            **({"skipped": skipped} if skipped else {}),
            "shards": len(results),
        },
        failed=dict(Counter(row["error"] for row in failures if row["error"] not in SKIPPED)),
        tools=tool_versions(job.tools),
        info={**spec.info, "worker_seconds": {name: round(value, 3) for name, value in seconds.items()}},
        files=stored_files(folder, files),
        seconds=round(time.perf_counter() - started, 3),
    )


def _over_budget(stage: str, done: dict[int, ShardResult], failed: int, total: int, budget: str) -> str:
    rows = [row for result in done.values() for row in result.failures if row["error"] not in SKIPPED]
    worst, count = Counter(row["message"] for row in rows).most_common(1)[0]
    return (
        f"{stage}: {failed} of {total} videos failed, more than max_failures = {budget!r} allows. "
        f"Most frequent ({count}): {worst}. Set max_failures higher to go on; what is done is kept"
    )
