"""Work done ahead of its consumer, in order and within bounds: decoding goes on while a model works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

_END: Any = object()


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


def read_ahead(items: Iterable[Item], *, ahead: int) -> Iterator[Item]:
    """Yields `items`, produced in one other thread, at most `ahead` of them before they are asked for.

    An exception of the iterable is raised where its item would have come.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1)
    try:
        running = deque(pool.submit(next, source, _END) for _ in range(max(1, ahead)))
        while (item := running.popleft().result()) is not _END:
            running.append(pool.submit(next, source, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
