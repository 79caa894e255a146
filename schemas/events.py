"""events.jsonl of a workspace: what its jobs did, one line of JSON an event, for people and programs that watch.

    begin     stage, total, done, unit           a job begins or resumes
    progress  done, and what else it counts      at most every EVERY seconds
    shard     shard, videos, failed, seconds     a shard is done
    failure   video, error, message              a video failed
    end       done, status, seconds, error       finished, or stopped and by what

Each has `time` (seconds since 1970), `event`, `stage` and `job`, which is the same for all events of one job. The log
is for looking at: no stage reads it, and one that cannot be written stops nothing.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

FILE = "events.jsonl"
LARGEST = 64_000_000  # bytes; a larger log is kept as events.1.jsonl and a new one begun
LONGEST = 500  # characters of a message


class EventLog:
    """Of one job. `root`: the workspace's folder; None: nothing is written."""

    def __init__(self, root: Path | None, stage: str) -> None:
        self.stage, self.job = stage, f"{stage}-{os.getpid()}-{time.time_ns() // 1_000_000}"
        self._path = None if root is None or not root.is_dir() else root / FILE

    def write(self, event: str, **fields: Any) -> dict[str, Any]:
        """Appends an event and returns it. A line is written by one call, so that jobs may write side by side."""
        found = {"time": round(time.time(), 3), "event": event, "stage": self.stage, "job": self.job, **fields}
        if isinstance(found.get("message"), str):
            found["message"] = found["message"][:LONGEST]
        if self._path is not None:
            try:
                self._make_room(self._path)
                with open(self._path, "ab", buffering=0) as file:
                    file.write(json.dumps(found).encode() + b"\n")
            except OSError:  # a full disk stops the stage where it matters, not here
                self._path = None
        return found

    @staticmethod
    def _make_room(path: Path) -> None:
        if path.is_file() and path.stat().st_size > LARGEST:
            os.replace(path, path.with_name("events.1.jsonl"))


def read_since(path: Path, after: int, *, tail: int) -> dict[str, Any]:
    """{events, next}: those after that byte of the log, and the byte to go on from.

    With 0, or beyond the end of a log that was begun again, those of the last `tail` bytes. Lines that are no events,
    or are not whole yet, are left out.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = after if 0 < after <= size else max(size - tail, 0)
            file.seek(start)
            data = file.read(tail)
    except OSError:
        return {"events": [], "next": 0}
    if start and start != after:  # in the middle of a line
        cut = data.find(b"\n") + 1
        start, data = start + cut, data[cut:]
    whole = data[: data.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("event"), str) and isinstance(found.get("job"), str):
            events.append(found)
    return {"events": events, "next": start + len(whole)}
