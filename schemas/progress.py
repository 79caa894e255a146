"""Progress of anything long, on stderr: a bar on a terminal, a plain line now and then elsewhere.

A log file gets whole lines, never carriage returns. `tgmae --quiet` and `--json` say otherwise, also to the processes
that a command starts; the workspace's event log (schemas/events.py) gets it all the same.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from schemas import log
from schemas.events import EventLog

EVERY = 15.0  # seconds between two plain lines
LOGGED = 1.0  # seconds between two events of progress
STYLE = "TGMAE_PROGRESS"  # how it is shown: a variable, for it holds for the processes that a command starts, too
Style = Literal["", "quiet", "json"]

console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def choose_style(style: Style) -> None:
    """quiet: nothing but errors; json: the events, a line each; "": a bar or plain lines."""
    os.environ[STYLE] = style


class Progress:
    """Counts from `done` to `total`, between start() and stop() or as a context manager; `hidden` prints nothing.

    workspace: its folder, whose event log is told.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str = "video", hidden: bool = False,
                 workspace: Path | None = None) -> None:  # fmt: skip
        self.title, self.total, self.done, self.unit, self.hidden = title, total, done, unit, hidden
        self._first, self._began = done, time.monotonic()
        self._printed, self._logged = self._began, 0.0
        self._notes: dict[str, str] = {}
        self._bar: Bar | None = None
        self._drawn = ExitStack()
        self._workers: dict[str, Any] = {}  # rich's task of each
        self._style = os.environ.get(STYLE, "")
        self._events = EventLog(None if hidden else workspace, title)

    def start(self) -> Progress:
        self.event("begin", total=self.total, done=self.done, unit=self.unit)
        if not self.hidden and not self._style and console.is_terminal:
            if log.active():
                console.file = self._drawn.enter_context(log.past_log(console.print))
                self._drawn.callback(setattr, console, "file", None)  # stderr again, whatever that is then
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(self.unit),
                       TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[notes]}"))  # fmt: skip
            self._bar = Bar(*columns, console=console, redirect_stderr=not log.active())
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, notes="")
            self._bar.start()
        return self

    def stop(self, error: BaseException | None = None) -> None:
        if self._bar is not None:
            for task in self._workers.values():
                self._bar.remove_task(task)
            self._bar.stop()
            self._drawn.close()
        if not self.hidden:
            self._print()
        told = {} if error is None else {"error": type(error).__name__, "message": str(error)}
        status = "stopped" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed" if error else "done"
        self.event("end", status=status, done=self.done, seconds=round(time.monotonic() - self._began, 3), **told)

    def event(self, name: str, **fields: Any) -> None:
        """Tells the event log, and stderr where `--json` is asked for."""
        if self.hidden:
            return
        found = self._events.write(name, **fields)
        if self._style == "json":
            terminal = getattr(console.file, "terminal", console.file)  # schemas/log.py keeps plain lines
            terminal.write(json.dumps(found) + "\n")
            terminal.flush()

    def __enter__(self) -> Progress:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop(error)

    def advance(self, count: int = 1, **notes: object) -> None:
        """`count` more are done (fewer, where it is negative); notes stay until they are given again."""
        self.done += count
        self._notes |= {name: str(value) for name, value in notes.items()}
        if time.monotonic() - self._logged >= LOGGED:
            self._logged = time.monotonic()
            self.event("progress", done=self.done, total=self.total, **self._notes)
        if self._bar is not None:
            shown = ", ".join(f"{name} {value}" for name, value in self._notes.items())
            self._bar.update(self._task, completed=self.done, notes=shown)
        if not self.hidden and time.monotonic() - self._printed >= EVERY:
            self._print()

    def worker(self, name: str, doing: str, done: int, total: int) -> None:
        """What one of several workers does, on a line of its own below the bar."""
        if self._bar is None:
            return
        if name not in self._workers:
            self._workers[name] = self._bar.add_task("", notes="")
        text = f"  worker {name}: {doing}"
        self._bar.update(self._workers[name], description=text, completed=done, total=total)

    def _print(self) -> None:
        self._printed = time.monotonic()
        rate = (self.done - self._first) / max(self._printed - self._began, 1e-9)
        left = f", {_clock((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        notes = "".join(f", {name} {value}" for name, value in self._notes.items())
        pace = f", {rate:.3g} {self.unit}s/s" if rate > 0 else ""
        line = f"{self.title}: {self.done} of {self.total} {self.unit}s{pace}{left}{notes}"
        if self._bar is None and not self._style:
            console.print(line)
        else:
            log.note(line)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g} {self._unit}s/s")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
