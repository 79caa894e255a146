"""The index stage: which videos there are, and whether each can be read. Writes manifest.parquet.

Files that were probed are kept in `.parts/` every few seconds, so that a stopped run resumes.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path

from pipeline.datasets import Entry, Listing, Source
from pipeline.datasets.entry import STAGE, BadRow, ListedTwice, MissingFile
from pipeline.media.probing import VideoFacts, probe
from pipeline.media.processes import ProcessDied, map_processes
from pipeline.media.video import UnreadableFile, VideoError, VideoTimeout
from pipeline.runtime.failure_budget import exceeds_budget
from pipeline.runtime.stage_build import tool_versions
from pipeline.runtime.stage_folder import building, check_size
from pipeline.runtime.units import Row
from pipeline.stage_specs import index_spec
from schemas.atomic import sha256_file, write_bytes, write_json
from schemas.config import Experiment, Index
from schemas.errors import UserError
from schemas.foreign_text import shown
from schemas.progress import Progress
from schemas.registry import FORMATS
from schemas.stage import PARTS, StageRecord, StageSpec, current_record, required_record, stored_files, write_record
from schemas.tables import FAILURES, LOST, MANIFEST, failure, video_key, write_table
from schemas.usable_cores import usable_cores

TABLE = "manifest.parquet"
CLASSES = "classes.json"  # {"classes": names by label, "groups": {"verb": {"names": [...], "of_class": [...]}, ...}}
LOST_TABLE = "lost.parquet"  # labelled videos that a list names and that are in no manifest
EXTRA = "extra.txt"  # videos that no list names
TIME_LIMIT = 300.0  # seconds to probe one file
KEEP_EVERY = 5.0  # seconds between two parts
SHOWN = 3  # reasons in a message

# Not the file's fault, perhaps: tried again when a stopped run goes on.
_PASSING = {error.__name__ for error in (ProcessDied, UnreadableFile, VideoTimeout)}


def run_index(experiment: Experiment) -> StageRecord:
    """Probes every video of the data folder and writes manifest.parquet, failures.parquet and stage.json.

    Returns the record that is there when nothing has changed.
    Raises UserError: no such folder, no videos, the list is not usable, a video is listed as two things, too many fail.
    """
    started = time.perf_counter()
    spec = index_spec(experiment)
    root = Path(spec.info["data"])
    if Path(experiment.workspace).resolve().is_relative_to(root):
        raise UserError(
            f"the workspace {experiment.workspace} lies in the data folder {root}, "
            "which would change with every run: choose a workspace elsewhere"
        )
    record = current_record(spec)
    if record is not None:
        return record
    index = experiment.index
    listing = FORMATS[index.format](source_of(index, root))
    if listing.extra:
        print(f"index: {len(listing.extra)} videos are in no list: see {spec.folder / EXTRA}", file=sys.stderr)
    if listing.ignored:
        print(shown(f"index: ignored {_counted(listing.ignored)}"), file=sys.stderr)
    if not listing.entries and not listing.failures:
        raise UserError(f"no videos in {root}: {_counted(listing.ignored) or 'it is empty'}")
    _take_once(listing)
    with building(spec) as folder:
        if folder is not None:
            check_size(spec, len(listing.entries), experiment)
            facts = _probe_all(root, listing, folder / PARTS, experiment)
            record = _written(spec, folder, listing, facts, started)
            check_size(spec, record.counts["done"], experiment)
            write_record(folder, record)
    return required_record(spec.folder, spec.stage)


def source_of(index: Index, root: Path) -> Source:
    """Where the format looks; `root` is index.data, resolved."""
    return Source(
        root, Path(index.list) if index.list else None, Path(index.annotations) if index.annotations else None,
        index.split, index.val_participants, index.follow_links,
    )  # fmt: skip


def _probe_all(root: Path, listing: Listing, parts: Path, experiment: Experiment) -> dict[str, Row]:
    """Facts by path; of a file that fails, {"error": class, "message": reason}."""
    facts = _kept(parts)
    videos = Counter(entry.path for entry in listing.entries)  # segments share their file
    total = len(listing.entries) + len(listing.failures)
    reasons = [f"{row['video_id']}: {row['message']}" for row in listing.failures]
    reasons += [f"{path}: {found['message']}" for path, found in facts.items() if "error" in found]
    failed = len(listing.failures) + sum(videos[path] for path, found in facts.items() if "error" in found)

    def check() -> None:
        if exceeds_budget(failed, total, experiment.max_failures):
            missing = sum(row["error"] == MissingFile.__name__ for row in listing.failures)
            guess = (
                f"{missing} are missing: is {root} (index.data) their folder?"
                if missing > total / 2
                else "Is this the right folder and format?"
            )
            raise UserError(
                f"index: {failed} of {total} videos failed, more than max_failures = {experiment.max_failures!r} "
                f"allows. {_first(reasons)} {guess} Set max_failures higher to go on"
            )

    check()
    pending = sorted(set(videos) - set(facts))
    if facts and pending:
        print(f"index: {len(facts)} files were probed before, {len(pending)} are left", file=sys.stderr)
    done = sum(videos[path] for path in facts)
    with (
        Progress(
            STAGE, len(listing.entries), done=done, hidden=not pending, workspace=Path(experiment.workspace)
        ) as progress,
        closing(_probed(root, pending, experiment.index.workers)) as results,
        closing(_FactsWriter(parts)) as keeper,
    ):
        for path, found in results:
            facts[path] = found
            keeper.add(path, found)
            if "error" in found:
                failed += videos[path]
                reasons.append(f"{path}: {found['message']}")
                progress.event("failure", video=path, error=found["error"], message=found["message"])
                check()
            progress.advance(videos[path], failed=failed)
    return facts


def _probed(root: Path, paths: list[str], workers: int) -> Generator[tuple[str, Row], None, None]:
    processes = workers or usable_cores()
    tasks = [str(root / path) for path in paths]
    for number, found in map_processes(probe_file, tasks, processes=processes, time_limit=2 * TIME_LIMIT):
        if isinstance(found, VideoFacts):
            yield paths[number], asdict(found)
        else:
            yield paths[number], {"error": type(found).__name__, "message": str(found)}


def probe_file(path: str) -> VideoFacts | VideoError:
    """Runs in a process of its own, for decoders crash."""
    try:
        return probe(Path(path), time_limit=TIME_LIMIT)
    except VideoError as error:
        return error


class _FactsWriter:
    """Writes what was probed, every few seconds and at the end."""

    def __init__(self, parts: Path) -> None:
        self._parts, self._facts, self._last = parts, dict[str, Row](), time.monotonic()
        self._number = max((int(path.stem) + 1 for path in parts.glob("[0-9]*.json")), default=0)

    def add(self, path: str, found: Row) -> None:
        self._facts[path] = found
        if time.monotonic() - self._last > KEEP_EVERY:
            self.close()

    def close(self) -> None:
        if self._facts:
            write_json(self._parts / f"{self._number:06d}.json", self._facts)
            self._number += 1
        self._facts, self._last = {}, time.monotonic()


def _kept(parts: Path) -> dict[str, Row]:
    facts: dict[str, Row] = {}
    for part in sorted(parts.glob("[0-9]*.json")):
        with suppress(ValueError):  # what is damaged is probed again
            facts |= json.loads(part.read_bytes())
    return {path: found for path, found in facts.items() if found.get("error") not in _PASSING}


def _written(spec: StageSpec, folder: Path, listing: Listing, facts: dict[str, Row], started: float) -> StageRecord:
    """Writes the tables and returns the record."""
    rows: list[Row] = []
    failures = list(listing.failures)
    for entry in listing.entries:
        found = facts[entry.path]
        if "error" in found:
            failures.append(failure(entry.video_id, STAGE, Exception(found["message"])) | {"error": found["error"]})
            listing.lose(entry.video_id, entry.label, entry.split)
        elif entry.start is not None and entry.start >= found["duration"]:
            late = BadRow(f"starts at {entry.start:g} s, the video ends at {found['duration']:g} s")
            failures.append(failure(entry.video_id, STAGE, late))
            listing.lose(entry.video_id, entry.label, entry.split)
        else:
            rows.append({"key": video_key(entry.video_id), "video_id": entry.video_id} | asdict(entry) | found)
    rows.sort(key=lambda row: str(row["video_id"]))
    failures.sort(key=lambda row: (row["video_id"], row["message"]))
    write_table(folder / "failures.parquet", failures, FAILURES)
    if not rows:
        for part in (folder / PARTS).glob("[0-9]*.json"):
            part.unlink()  # so that the next run tries again
        reasons = [f"{row['video_id']}: {row['message']}" for row in failures]
        raise UserError(f"index: none of {len(failures)} videos in {spec.info['data']} can be used. {_first(reasons)}")
    write_table(folder / TABLE, rows, MANIFEST)
    write_table(folder / LOST_TABLE, sorted(listing.lost, key=itemgetter("video_id")), LOST)
    write_json(folder / CLASSES, {"classes": class_names(listing), "groups": listing.groups})
    write_bytes(folder / EXTRA, "".join(f"{path}\n" for path in listing.extra).encode())
    files = ("failures.parquet", TABLE, LOST_TABLE, CLASSES, EXTRA)
    return StageRecord(
        stage=spec.stage,
        fingerprint=spec.fingerprint,
        config=spec.config,
        inputs=spec.inputs,
        output=sha256_file(folder / TABLE),
        counts={
            "done": len(rows),
            "failed": len(failures),
            "ignored": listing.ignored.total(),
            "extra": len(listing.extra),
        },
        failed=dict(Counter(row["error"] for row in failures)),
        tools=tool_versions(["av"]),
        info={**spec.info, "ignored": dict(listing.ignored)},
        files=stored_files(folder, {name: sha256_file(folder / name) for name in files}),
        seconds=round(time.perf_counter() - started, 3),
    )


def class_names(listing: Listing) -> list[str]:
    """By label: the dataset's own names, else those of the videos' labels, else the numbers."""
    if listing.classes:
        return listing.classes
    names = {entry.label: entry.label_text for entry in listing.entries if entry.label is not None}
    names |= {row["label"]: names.get(row["label"]) for row in listing.lost}
    return [names.get(number) or str(number) for number in range(max(names, default=-1) + 1)]


def _take_once(listing: Listing) -> None:
    """Epic-Kitchens' own lists hold the same part with the same action twice: the second is a failure.

    Raises UserError when a video is listed with two labels or in two splits.
    """
    taken: dict[str, Entry] = {}
    doubles = []
    for entry in listing.entries:
        first = taken.setdefault(entry.video_id, entry)
        if (first.label, first.split) != (entry.label, entry.split):
            doubles.append(f"{entry.video_id} ({_described(first)}, then {_described(entry)})")
        elif first is not entry:
            listing.fail(entry.video_id, ListedTwice("is listed more than once, alike: taken once"))
    if doubles:
        raise UserError(
            f"{len(doubles)} videos are listed more than once, the first: {', '.join(doubles[:SHOWN])}. "
            "A video has one label and one split; parts of one video need start and end"
        )
    listing.entries = [*taken.values()]
    keys: dict[str, str] = {}
    for name in taken:
        other = keys.setdefault(video_key(name), name)
        if other != name:
            raise UserError(f"{name} and {other} have the same key: rename one of them")


def _described(entry: Entry) -> str:
    label = "no label" if entry.label is None else f"label {entry.label_text or entry.label}"
    return f"{label} in {entry.split}" if entry.split else label


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))


def _first(reasons: list[str]) -> str:
    more = f" (and {len(reasons) - SHOWN} more)" if len(reasons) > SHOWN else ""
    return "The first: " + "; ".join(reasons[:SHOWN]) + more + "."
