"""Progress of anything long, on stderr: a bar on a terminal, a plain line now and then elsewhere.

A log file gets whole lines, never carriage returns.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType

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

EVERY = 15.0  # seconds between two plain lines

console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


class Progress:
    """Counts from `done` to `total`, between start() and stop() or as a context manager; `hidden` prints nothing."""

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str = "video", hidden: bool = False) -> None:
        self.title, self.total, self.done, self.unit, self.hidden = title, total, done, unit, hidden
        self._first, self._began = done, time.monotonic()
        self._printed = self._began
        self._notes: dict[str, str] = {}
        self._bar: Bar | None = None
        self._drawn = ExitStack()

    def start(self) -> Progress:
        if not self.hidden and console.is_terminal:
            console.file = self._drawn.enter_context(log.past_log(console.print))
            self._drawn.callback(setattr, console, "file", None)  # stderr again, whatever that is then
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(self.unit),
                       TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[notes]}"))  # fmt: skip
            self._bar = Bar(*columns, console=console, redirect_stderr=not log.active())
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, notes="")
            self._bar.start()
        return self

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._drawn.close()
        if not self.hidden:
            self._print()

    def __enter__(self) -> Progress:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def advance(self, count: int = 1, **notes: object) -> None:
        """`count` more are done (fewer, where it is negative); notes stay until they are given again."""
        self.done += count
        self._notes |= {name: str(value) for name, value in notes.items()}
        if self._bar is not None:
            shown = ", ".join(f"{name} {value}" for name, value in self._notes.items())
            self._bar.update(self._task, completed=self.done, notes=shown)
        if not self.hidden and time.monotonic() - self._printed >= EVERY:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        rate = (self.done - self._first) / max(self._printed - self._began, 1e-9)
        left = f", {_clock((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        notes = "".join(f", {name} {value}" for name, value in self._notes.items())
        pace = f", {rate:.3g} {self.unit}s/s" if rate > 0 else ""
        line = f"{self.title}: {self.done} of {self.total} {self.unit}s{pace}{left}{notes}"
        if self._bar is None:
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
