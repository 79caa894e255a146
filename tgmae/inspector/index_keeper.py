"""Keeps the index of a workspace current while the site runs: made, measured and made again in the background."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from schemas.errors import UserError
from schemas.workspace import Workspace
from tgmae.inspector import catalogue
from tgmae.inspector.catalogue_query import measured
from tgmae.inspector.drawn_clips import Clips, experiment_of, run_names
from tgmae.inspector.known_objects import truth_folder
from tgmae.inspector.map_measures import Measuring

LOOK = 3.0  # seconds between two looks whether the workspace changed
STOP = 5.0  # seconds that a thread has to end
log = logging.getLogger("tgmae.inspector")


class Keeper:
    """`ready` once there is an index to ask; `busy` says what is being done, for people."""

    def __init__(self, workspace: Workspace, clips: Clips, *, truth: Path | None = None, path: Path | None = None,
                 say: Callable[[str], None] = lambda line: None) -> None:  # fmt: skip
        self.workspace, self.clips, self.say = workspace, clips, say
        self.path = path or catalogue.cache_file(workspace.root)
        self.ready, self.busy, self.trouble = threading.Event(), "starting", ""
        self._truth, self.truth, self._ended = truth, truth, threading.Event()
        self._measuring: Measuring | None = None
        self._thread = threading.Thread(target=self._keep, name="index", daemon=True)
        self._count: tuple[float, tuple[int, int]] = (0.0, (0, 0))

    def start(self) -> None:
        self.truth = truth_folder(self.workspace, self._truth)  # what is wrong with it is said at once
        self._thread.start()

    def stop(self) -> bool:
        """Whether nothing runs any more: a thread inside a library's C++ would abort an interpreter that ends."""
        self._ended.set()
        self._thread.join(STOP)
        if self._measuring is None:
            return not self._thread.is_alive()
        self._measuring.ended.set()
        self._measuring.join(STOP)
        return not (self._thread.is_alive() or self._measuring.is_alive())

    def base(self) -> sqlite3.Connection:
        """A connection for one request; the caller closes it."""
        return catalogue.connect(self.path)

    def measured(self) -> tuple[int, int]:
        """(score maps measured, of how many), at most a second old."""
        if time.monotonic() - self._count[0] > 1:
            base = self.base()
            try:
                self._count = (time.monotonic(), measured(base))
            finally:
                base.close()
        return self._count[1]

    def _keep(self) -> None:
        state = ""
        while not self._ended.is_set():
            try:
                now = catalogue.state(self.workspace)
                if now != state:
                    self._make()
                    state = now
            except UserError as error:
                self.trouble = str(error)
            except Exception:
                self.trouble = "the index cannot be made: the terminal says why"
                log.exception("making the index of %s", self.workspace.root)
            self._ended.wait(LOOK)

    def _make(self) -> None:
        if self._measuring is not None:
            self._measuring.ended.set()
            self._measuring.join()
        if not catalogue.is_current(self.path, self.workspace):
            began = time.monotonic()
            catalogue.build(self.path, self.workspace, self._report)
            self.say(f"index: {self.path} ({time.monotonic() - began:.1f} s)")
        self.busy, self.trouble = "", ""
        self.ready.set()
        names = run_names(self.workspace)
        experiment = experiment_of(self.workspace, names[0] if names else None)
        self.truth = truth_folder(self.workspace, self._truth)
        if not self._ended.is_set():
            self._measuring = Measuring(self.path, self.clips, experiment, self.truth)
            self._measuring.start()

    def _report(self, what: str, done: int, total: int) -> None:
        if self._ended.is_set():
            raise UserError("the index is not made: the site has ended")
        self.busy = f"{what}: {done:,} of {total:,}"
