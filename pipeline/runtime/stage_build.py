"""How a stage of shards is built: what is missing, and only that; merged and recorded when whole.

A part of a shard is the unit of work, of retry and of resume (parts.py). Its files are written whole by a worker, then
its ShardResult is kept: absent means make it again. When all parts of a shard are there they are joined (kept.py).
stage.json is written last.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.runtime.engine import execute
from pipeline.runtime.failure_budget import exceeds_budget
from pipeline.runtime.job import Job
from pipeline.runtime.kept import Growing, kept_results
from pipeline.runtime.parts import Parts
from pipeline.runtime.stage_folder import building, check_size
from pipeline.runtime.units import Advance, Made, Row, ShardResult
from schemas.atomic import sha256_file, write_bytes
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
    with Growing(folder, pending) as shards:
        earlier = [*done.values(), *(part.result for part in shards.kept)]
        failures = [row for result in earlier for row in _failed(result)]
        before = total - sum(len(unit.rows) for unit in pending) + sum(len(part.unit.rows) for part in shards.kept)
        if before:
            print(f"{stage}: resumes, {before} of {total} videos are done", file=sys.stderr)
        parts = Parts(pending, job.step, shards.places, job.cost)
        root = Path(experiment.workspace)
        with (
            Progress(stage, total, done=before, hidden=not pending, workspace=root) as progress,
            closing(_events(job, folder, parts, experiment)) as events,  # an error's traceback would keep it open
        ):
            _check_budget(stage, failures, total, experiment.max_failures)
            for event in events:
                if isinstance(event, int):
                    progress.advance(event)
                    if isinstance(event, Advance):
                        progress.worker(event.worker, f"shard {event.unit.shard}", event.done, len(event.unit.rows))
                    continue
                shards.add(event)
                for row in event.result.failures:
                    progress.event("failure", video=row["video_id"], error=row["error"], message=row["message"])
                failures += _failed(event.result)
                progress.advance(0, failed=len(failures))
                _check_budget(stage, failures, total, experiment.max_failures)
                done |= {result.shard: _told(progress, result) for result in shards.finished()}
            done |= {result.shard: _told(progress, result) for result in shards.finished(wait=True)}
    return done


def _told(progress: Progress, result: ShardResult) -> ShardResult:
    videos = len({row["key"] for row in (*result.rows, *result.failures)})
    progress.event("shard", shard=result.shard, videos=videos, failed=len(_failed(result)), seconds=result.seconds)
    return result


def _failed(result: ShardResult) -> list[Row]:
    return [row for row in result.failures if row["error"] not in SKIPPED]


def _events(job: Job, folder: Path, parts: Parts, experiment: Experiment) -> Generator[int | Made, None, None]:
    if not parts:
        return
    # Ray's workers may run in another folder: a full path.
    make_worker = partial(job.worker, folder.resolve())
    if not job.in_process and not experiment.ray.in_process:
        yield from execute(parts, make_worker, experiment.ray, holds_model=job.holds_model, runtime_env=job.runtime_env)
        return
    worker = make_worker()
    while parts:
        unit = parts.take_all()
        for event in worker.run(unit):
            yield event if isinstance(event, int) else Made(unit, event)


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
    info = {**spec.info, "worker_seconds": {name: round(value, 3) for name, value in seconds.items()}}
    if seconds["read"]:  # of frames; where none are looked at, nothing is waited for
        info["waited"] = round(seconds["read"] / sum(seconds.values()), 4)
        print(f"{spec.stage}: workers waited {info['waited']:.1%} of their time for frames", file=sys.stderr)
    skipped = sum(row["error"] in SKIPPED for row in failures)
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
        info=info,
        files=stored_files(folder, files),
        seconds=round(time.perf_counter() - started, 3),
    )


def _check_budget(stage: str, failures: list[Row], total: int, budget: str) -> None:
    if not exceeds_budget(len(failures), total, budget):
        return
    worst, count = Counter(row["message"] for row in failures).most_common(1)[0]
    raise UserError(
        f"{stage}: {len(failures)} of {total} videos failed, more than max_failures = {budget!r} allows. "
        f"Most frequent ({count}): {worst}. Set max_failures higher to go on; what is done is kept"
    )
