"""Work in processes that may die, hang or take all memory: that costs the one video that caused it.

concurrent.futures would lose the whole pool, and not say which video it was.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.media.video import TooMuchMemory, VideoError, VideoTimeout, as_video_error
from schemas.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

READY = "ready"  # what a process says first
LARGE = 0.5  # of the memory that a process may take: a video that fails then has failed of it
STARTS = 3  # of processes in a row that end before they are ready
TRIES = 2  # of a task whose process died: the first time, memory may have run out because of others


class ProcessDied(VideoError):
    pass


def map_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], *, processes: int, time_limit: float
) -> Iterator[tuple[int, Result | VideoError]]:
    """Yields (number of the task, result) as results come; `work` is a function of a module.

    A task whose process dies gives ProcessDied, one without answer for `time_limit` seconds VideoTimeout, any other
    exception of `work` Unforeseen.
    Closing the iterator, or an exception in the consumer that closes it, ends all processes.
    """
    waiting = deque((number, 0) for number in range(len(tasks)))
    crew: dict[Connection, _Process[Task, Result]] = {}
    unstarted = 0  # processes in a row that ended before they were ready
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
                    if not member.ready:  # no task's fault: killed, or short of memory, while it started
                        unstarted += 1
                        if unstarted == STARTS:
                            raise UserError(
                                f"processes that read videos do not start ({ending}, {STARTS} in a row): is memory "
                                "short? Their own error, if they printed one, is above"
                            ) from None
                        waiting.appendleft((member.number, member.tries))
                        continue
                    if tries < TRIES:
                        waiting.appendleft((member.number, tries))
                    else:
                        yield member.number, ProcessDied(f"the process that read it died, {tries} times ({ending})")
                    continue
                if not member.ready:
                    member.ready, unstarted = True, 0
                    member.due = time.monotonic() + time_limit
                    continue
                number = member.number
                if waiting:
                    member.give(tasks, waiting.popleft(), time_limit)
                else:
                    del crew[connection]
                    member.end()
                yield number, answer
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

    def __init__(self, work: Callable[[Task], Result], memory: int = 0) -> None:
        # spawn: a fork would inherit the threads' locks of whoever calls us
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(work, theirs, memory), daemon=True)
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
        with suppress(OSError):  # it is dead already: recv() reports it
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


class Isolated(Generic[Task, Result]):
    """`work`, a function of a module, done in processes that are kept, one for each thread that asks."""

    def __init__(self, work: Callable[[Task], Result], *, time_limit: float, memory: int = 0) -> None:
        """`memory` bytes at most are a process' own; 0: no limit."""
        self._work, self._time_limit, self._memory = work, time_limit, memory
        self._idle: list[_Process[Task, Result]] = []

    def run(self, task: Task) -> Result:
        """Raises VideoError: what the work returns or raises, ProcessDied, VideoTimeout."""
        ending = ""
        for _ in range(TRIES):
            member = self._idle.pop() if self._idle else _Process(self._work, self._memory)
            answer, ending = self._answer(member, task)
            if isinstance(answer, VideoError):
                raise answer
            if not ending:
                return answer
        raise ProcessDied(f"the process that read it died, {TRIES} times ({ending}): it may need too much memory")

    def _answer(self, member: _Process[Task, Result], task: Task) -> tuple[Any, str]:
        """What came back; or how the process ended."""
        member.give([task], (0, 0), self._time_limit)
        try:
            while member.connection.poll(max(0.0, member.due - time.monotonic())):
                answer = member.connection.recv()
                if member.ready:
                    self._idle.append(member)
                    return answer, ""
                member.ready, member.due = True, time.monotonic() + self._time_limit
        except (EOFError, OSError):
            return None, member.end()
        member.end()
        return VideoTimeout(f"no answer from the decoder within {self._time_limit:g} s"), ""

    def close(self) -> None:
        while self._idle:
            self._idle.pop().end()


def _serve(work: Callable[[Any], Any], connection: Connection, memory: int) -> None:
    """In the process: says READY, then answers each task with its result or a VideoError."""
    with suppress(OSError):  # where there is /proc: when memory runs out, this process goes and not its parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    with suppress(EOFError, OSError):  # the parent has gone, or wants no more
        connection.send(READY)
        while True:
            task = connection.recv()
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins again
            try:
                answer = work(task)
            except Exception as error:
                answer = _named(as_video_error(error), memory)
            connection.send(answer)


def _named(error: VideoError, memory: int) -> VideoError:
    """Libraries have many words for memory that they did not get, most of them wrong."""
    if not memory or (os.strerror(errno.ENOMEM) not in str(error) and _peak() < LARGE * memory):
        return error
    limit = f"its process may take {memory / 2**30:.3g} GiB (ray.decoder_gb)"
    return TooMuchMemory(f"needs too much memory: {limit}, and had {_peak() / 2**30:.3g} GiB when it failed: {error}")


def _peak() -> int:
    """Bytes of memory that were resident at most; 0 where there is no /proc."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
