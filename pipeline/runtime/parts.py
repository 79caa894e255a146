"""How shards are handed out: in parts that shrink as the work runs out, so that all workers finish together.

Where a part begins and ends, and when it is made, changes no byte of the output, so both may follow what is left and
how fast it goes (guided self-scheduling): long parts cost little, short ones at the end leave nobody waiting. The last
ones are as short as can be, and the longest of them go first: a long video that is begun last keeps all others waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from pipeline.runtime.units import Row, Unit

SHARE = 2  # a part is at most this fraction of what an even split of the rest would give a worker
SECONDS = 60.0  # that a part takes at most, about: what is lost where its worker dies
LAST = 8  # for each worker but one, so many times `step` videos are handed out singly at the end
UNTRIED = 16  # videos of a part at most, before it is known how fast they go


class Parts:
    """What is still to be handed out of some shards, in their order.

    done: of each shard begun, the parts (first row, row after the last) that need not be made again.
    step: videos that are never parted: every part begins at a multiple of it; 0: shards are never parted.
    cost: about how long a video takes, of any unit.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        step: int,
        done: Mapping[int, Sequence[tuple[int, int]]] | None = None,
        cost: Callable[[Row], float] = lambda row: 1.0,
    ) -> None:
        self._step, self._cost, self._ending = step, cost, False
        self._open: deque[tuple[Unit, int, int]] = deque()  # of a shard, the rows from .. to before ..
        self._pace: float | None = None  # videos a second of one worker
        for unit in units:
            start = 0
            for first, stop in sorted((done or {}).get(unit.shard, [])):
                if first > start:
                    self._open.append((unit, start, first))
                start = stop
            if start < len(unit.rows) or not unit.rows:
                self._open.append((unit, start, len(unit.rows)))

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def most_workers(self) -> int:
        """How many could be busy at once."""
        if not self._step:
            return len(self._open)
        return sum(max(1, -(-(stop - start) // self._step)) for _, start, stop in self._open)

    def went(self, videos: int, seconds: float) -> None:
        """How long a part took."""
        if videos and seconds > 0:
            self._pace = videos / seconds

    def take_all(self) -> Unit:
        """The next shard, or what is left of it up to the next part that is there."""
        return self._taken(None)

    def take(self, workers: int) -> Unit:
        """The next part, for one of so many workers."""
        if self._step and not self._ending and self._left() <= LAST * (workers - 1) * self._step:
            self._ending = True
            self._open = deque(sorted(self._steps(), key=self._seconds, reverse=True))
        return self._taken(workers if self._step else None)

    def _taken(self, workers: int | None) -> Unit:
        unit, start, stop = self._open.popleft()
        end = stop if workers is None else min(stop, start + self._size(workers, stop - start))
        if end < stop:
            self._open.appendleft((unit, end, stop))
        if start == 0 and end == len(unit.rows):
            return unit
        return Unit(unit.shard, unit.rows[start:end], start, whole=False)

    def _size(self, workers: int, here: int) -> int:
        left = here + self._left()
        longest = UNTRIED if self._pace is None else self._pace * SECONDS
        fair = min(left / (SHARE * workers), longest)
        return max(self._step, round(fair) // self._step * self._step)

    def _left(self) -> int:
        return sum(stop - start for _, start, stop in self._open)

    def _steps(self) -> Iterator[tuple[Unit, int, int]]:
        """What is left, cut into the smallest parts."""
        for unit, start, stop in self._open:
            edges = [*range(start, stop, self._step), stop]
            yield from ((unit, *pair) for pair in (pairwise(edges) if start < stop else [(start, stop)]))

    def _seconds(self, part: tuple[Unit, int, int]) -> float:
        """About, in the cost's own unit."""
        unit, start, stop = part
        return sum(self._cost(row) for row in unit.rows[start:stop])
