"""Where a model runs, and how much at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from schemas.errors import UserError

logger = logging.getLogger(__name__)

# What libraries below torch say, as plain RuntimeErrors: the CPU's allocator, CUDA itself, cuBLAS.
NO_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

Result = TypeVar("Result")


def torch_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU. Raises UserError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here: {reason}. Allowed: auto, cpu, cuda, cuda:N") from error
    return device


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy that the CPU does not wait for, where there is a GPU: what follows on it waits by itself."""
    copied = device.type == "cuda" and tensor.device.type == "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if copied else tensor.to(device)


def in_batches(run: Callable[[slice], Result], count: int, size: int, model: str) -> tuple[list[Result], int]:
    """Runs `run` over slices of at most `size` of `count` items; returns the results, and the size that went well.

    Out of memory halves the size and goes on. With a single item it is a UserError that names `model`.
    """
    results: list[Result] = []
    done = 0
    while done < count:
        part = slice(done, min(done + size, count))
        if _fits(run, part, results):
            done = part.stop
            continue
        tried = part.stop - part.start
        if tried == 1:
            raise UserError(f"{model} runs out of memory with a single picture: use a smaller model or half precision")
        size = (tried + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("%s: out of memory with %d pictures, going on with batches of %d", model, tried, size)
    return results, size


def _fits(run: Callable[[slice], Result], part: slice, results: list[Result]) -> bool:
    """False when memory ran out. Returning lets go of the failed attempt's tensors, which its traceback holds."""
    try:
        results.append(run(part))
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        return False
    return True
