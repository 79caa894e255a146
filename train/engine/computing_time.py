"""How long the device computes on an update, without ever waiting for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch


class Mark(Protocol):
    """A moment in the device's order of work."""

    def elapsed_time(self, end: Any, /) -> float: ...  # milliseconds; the name is torch.cuda.Event's


class Moment:
    """On a CPU, which computes at once."""

    def __init__(self) -> None:
        self.seconds = time.perf_counter()

    def elapsed_time(self, end: "Moment", /) -> float:
        return 1000 * (end.seconds - self.seconds)


class ComputingTime:
    """Spans of one update. A GPU passes its marks later: they are asked for once the update is known to be done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[Mark, Mark]] = []

    @contextmanager
    def counted(self) -> Iterator[None]:
        start = self._mark()
        yield
        self._spans.append((start, self._mark()))

    def milliseconds(self) -> float:
        """To be asked for when what was queued in the spans has been computed: a GPU's events are else not ready."""
        return sum(start.elapsed_time(end) for start, end in self._spans)

    def _mark(self) -> Mark:
        if self._device.type != "cuda":
            return Moment()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
