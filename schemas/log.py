"""log.txt: what a stage or a run printed, kept in its folder as plain lines with their times.

What is printed before the folder is known is held back until `keep_in`; a stage that resumes appends. A terminal shows
the same as without a log: its bar is drawn past it, and of progress the log gets a plain line now and then.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from schemas.foreign_text import shown

FILE = "log.txt"
BEGAN = "began: "
HELD = 1000  # lines, until the folder is known
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]")


def last_command(folder: Path) -> list[str]:
    """The arguments of the tgmae command that last wrote folder/log.txt, the program left out; [] where none is read.

    They are a stranger's words: quote them wherever they are shown.
    """
    found: list[str] = []
    with suppress(OSError, UnicodeDecodeError, ValueError):
        for line in (folder / FILE).read_text(encoding="utf-8").splitlines():
            _, began, words = line.partition(f" {BEGAN}")
            if began and (said := shlex.split(words)) and Path(said[0]).name in ("tgmae", "__main__.py"):
                found = said[1:]
    return found


class _Log:
    def __init__(self) -> None:
        self.held: deque[str] = deque(maxlen=HELD)
        self.file: IO[str] | None = None
        self.begun = f"{BEGAN}{shlex.join(sys.argv)[:1000]}"

    def line(self, text: str) -> None:
        text = shown(_ESCAPES.sub("", text.rpartition("\r")[2])).rstrip()
        if text:
            self._write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def _write(self, line: str) -> None:
        if self.file is None:
            self.held.append(line)
            return
        with suppress(OSError, ValueError):  # a full disk stops the stage itself, not its log
            self.file.write(line)

    def open(self, folder: Path) -> None:
        self.close()
        with suppress(OSError):
            self.file = open(folder / FILE, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  close() closes it
            self.line(self.begun)
            for line in self.held:
                self._write(line)
        self.held.clear()

    def close(self) -> None:
        if self.file is not None:
            with suppress(OSError):
                self.file.close()
        self.file = None


_log: _Log | None = None


class _Tee:
    """stderr, of which the log gets every whole line, too."""

    def __init__(self, terminal: TextIO, log: _Log) -> None:
        self.terminal, self._kept, self._begun = terminal, log, ""
        self.above_bar: Callable[[str], None] | None = None

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._kept.line(line)
            if self.above_bar is not None:
                self.above_bar(line)
        if self.above_bar is None:
            self.terminal.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


@contextmanager
def capturing() -> Iterator[None]:
    """Within it, what is printed on stderr is held for `keep_in`; inside another one, that one's."""
    global _log
    if _log is not None:
        yield
        return
    before, _log = sys.stderr, _Log()
    tee = _Tee(before, _log)
    sys.stderr = tee
    try:
        yield
    except BaseException as error:
        _log.line(f"stopped: {type(error).__name__}{f': {error}' if str(error) else ''}")
        raise
    finally:
        if sys.stderr is tee:
            sys.stderr = before
        _log.close()
        _log = None


def active() -> bool:
    return _log is not None


def note(line: str) -> None:
    """For the log alone: what the terminal shows in another way, or on stdout."""
    if _log is not None:
        _log.line(line)


def keep_in(folder: Path) -> None:
    """From now on, and what was held, in folder/log.txt; nothing where nothing is captured."""
    if _log is not None:
        _log.open(folder)


@contextmanager
def past_log(above_bar: Callable[[str], None]) -> Iterator[TextIO]:
    """stderr itself, to draw a bar on that is no business of the log; what is printed meanwhile goes to `above_bar`."""
    tee = sys.stderr
    if not isinstance(tee, _Tee):
        yield sys.stderr
        return
    tee.above_bar = above_bar
    try:
        yield tee.terminal
    finally:
        tee.above_bar = None
