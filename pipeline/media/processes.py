"""Work in processes that may die or hang: a decoder's crash costs the one video that caused it.

concurrent.futures would lose the whole pool, and not say which video it was.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

from pipeline.media.video import VideoError, VideoTimeout

Task = TypeVar("Task")
Result = TypeVar("Result")

READY = "ready"  # what a process says first
TRIES = 2  # of a task whose process died: the first time, memory may have run out because of others


class ProcessDied(VideoError):
    pass


def map_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], *, processes: int, time_limit: float
) -> Iterator[tuple[int, Result | VideoError]]:
    """Yields (number of the task, result) as results come; `work` is a function of a module.

    A task whose process dies gives ProcessDied, one without answer for `time_limit` seconds VideoTimeout.
    Any other exception of `work` is raised here: it is a fault of the program.
    Closing the iterator, or an exception in the consumer that closes it, ends all processes.
    """
    waiting = deque((number, 0) for number in range(len(tasks)))
    crew: dict[Connection, _Process[Task, Result]] = {}
    try:
        while waiting or crew:
            while waiting and len(crew) < processes:
                member = _Process[Task, Result](work)
                crew[member.connection] = member
                member.give(tasks, waiting.popleft(), time_limit)
            soonest = min(member.due for member in crew.values())
            for connection in wait(list(crew), timeout=max(0.0, soonest - time.monotonic())):
                assert isinstance(connection, Connection)
                member = crew[connection]
                try:
                    answer = connection.recv()
                except (EOFError, OSError):
                    del crew[connection]
                    tries = member.tries + 1
                    ending = member.end()
                    if not member.ready:
                        raise RuntimeError(
                            f"a worker process cannot start ({ending}); its reason stands above"
                        ) from None
                    if tries < TRIES:
                        waiting.appendleft((member.number, tries))
                    else:
                        yield member.number, ProcessDied(f"the process that read it died, {tries} times ({ending})")
                    continue
                if not member.ready:
                    member.ready = True
                    member.due = time.monotonic() + time_limit
                    continue
                number = member.number
                if waiting:
                    member.give(tasks, waiting.popleft(), time_limit)
                else:
                    del crew[connection]
                    member.end()
                well, result = answer
                if not well:
                    raise RuntimeError(f"in a worker process:\n{result}")
                yield number, result
            for connection, member in list(crew.items()):
                if time.monotonic() > member.due and not connection.poll():
                    del crew[connection]
                    member.end()
                    yield member.number, VideoTimeout(f"no answer from the decoder within {time_limit:g} s")
    finally:
        for member in crew.values():
            member.end()


class _Process(Generic[Task, Result]):
    """One process at work on one task."""

    def __init__(self, work: Callable[[Task], Result]) -> None:
        # spawn: a fork would inherit the threads' locks of whoever calls us
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(work, theirs), daemon=True)
        # Ctrl-C is the parent's business, which ends us: a process begun with it blocked never sees it.
        resource_tracker.ensure_running()  # it would unblock the signal again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.number, self.tries, self.due, self.ready = -1, 0, 0.0, False

    def give(self, tasks: Sequence[Task], ticket: tuple[int, int], time_limit: float) -> None:
        self.number, self.tries = ticket
        self.due = time.monotonic() + time_limit
        with suppress(OSError):  # it is dead already: recv() says so
            self.connection.send(tasks[self.number])

    def end(self) -> str:
        """Ends the process if it has not ended; says how it ended."""
        self.connection.close()
        self._process.join(timeout=0.2)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        code = self._process.exitcode or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _serve(work: Callable[[Any], Any], connection: Connection) -> None:
    """In the process: says READY, then answers each task with (True, result) or (False, traceback)."""
    with suppress(EOFError, OSError):  # the parent has gone, or wants no more
        connection.send(READY)
        while True:
            task = connection.recv()
            try:
                answer = True, work(task)
            except Exception:  # handed to the parent, which raises it
                answer = False, traceback.format_exc()
            connection.send(answer)
