"""From pinned memory to the GPU while it still computes on the batch before."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

B = TypeVar("B", bound=Any)  # a NamedTuple some of whose fields are tensors


def on_device(batches: Iterator[B], device: torch.device) -> Iterator[B]:
    """The batches with their tensors on the device.

    On a GPU the copies go through a stream of their own: the loop queues an update without waiting for it, so the
    next batch is copied while that update runs. Elsewhere the batches pass as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            moved = {name: value.to(device, non_blocking=True) for name, value in batch._asdict().items()
                     if isinstance(value, Tensor)}  # fmt: skip
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copies)
        for tensor in moved.values():
            tensor.record_stream(computing)  # its memory is not the copies' to use again before this stream is done
        yield batch._replace(**moved)
