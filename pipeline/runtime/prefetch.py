"""Work done ahead of its consumer, in order and within bounds: decoding goes on while a model works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


def map_ahead(
    function: Callable[[Item], Value], items: Iterable[Item], *, threads: int, ahead: int
) -> Iterator[tuple[Item, Value | Exception]]:
    """Yields (item, function(item)) in the order of `items`, computed in `threads` threads.

    At most `ahead` results exist that the consumer has not taken. An exception of `function` takes the place
    of its value, so that one bad item costs only itself.
    """

    def attempt(item: Item) -> Value | Exception:
        try:
            return function(item)
        except Exception as error:  # handed to the consumer, who knows what a failure means
            return error

    rest = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        running: deque[tuple[Item, Future[Value | Exception]]] = deque()
        running.extend((item, pool.submit(attempt, item)) for item in islice(rest, max(1, ahead)))
        while running:
            item, future = running.popleft()
            value = future.result()
            running.extend((following, pool.submit(attempt, following)) for following in islice(rest, 1))
            yield item, value
    finally:
        pool.shutdown(cancel_futures=True)


def streams_ahead(
    function: Callable[[Item], Iterable[Value]], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[tuple[Item, Iterator[Value]], None, None]:
    """Yields (item, values of function(item)) in the order of `items`; `threads` items are worked on at once.

    At most twice as many are begun, and of each at most `ahead` values exist that the consumer has not taken. An
    exception of `function` is raised where its value would have come. What the consumer leaves of an item when it asks
    for the next one is not made. To be closed by whoever may stop early: threads wait until then.
    """

    def begun(item: Item) -> tuple[Item, _Stream[Value]]:
        stream = _Stream[Value](ahead)
        pool.submit(stream.fill, function, item)
        return item, stream

    rest = iter(items)
    pool = ThreadPoolExecutor(threads)
    running: deque[tuple[Item, _Stream[Value]]] = deque()
    try:
        running.extend(begun(item) for item in islice(rest, 2 * threads))
        while running:
            item, stream = running[0]
            yield item, iter(stream)
            stream.stop()
            running.popleft()
            running.extend(begun(following) for following in islice(rest, 1))
    finally:
        for _, stream in running:
            stream.stop()
        pool.shutdown(cancel_futures=True)


class _Stream(Generic[Value]):
    """Values on their way from the thread that makes them."""

    def __init__(self, ahead: int) -> None:
        self._ahead, self._values = ahead, deque[tuple[Value | None, BaseException | None]]()
        self._changed, self._ended, self._stopped = Condition(), False, False

    def fill(self, function: Callable[[Item], Iterable[Value]], item: Item) -> None:
        error: BaseException | None = None
        try:
            for value in function(item) if not self._stopped else ():
                if not self._put(value, None):
                    break
        except BaseException as raised:  # handed to the consumer, who knows what a failure means
            error = raised
        with self._changed:
            if error is not None:
                self._values.append((None, error))
            self._ended = True
            self._changed.notify_all()

    def _put(self, value: Value, error: BaseException | None) -> bool:
        """Whether more are wanted."""
        with self._changed:
            self._values.append((value, error))
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopped or len(self._values) < self._ahead)
            return not self._stopped

    def __iter__(self) -> Iterator[Value]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._values or self._ended or self._stopped)
                if not self._values:
                    return
                value, error = self._values.popleft()
                self._changed.notify_all()
            if error is not None:
                raise error
            yield value  # type: ignore[misc]  # without an error it is one

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
