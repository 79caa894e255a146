"""Memory that a process has freed and asks for again: whether the kernel is asked, too."""

from __future__ import annotations

import platform
import resource
from multiprocessing import get_context

import pytest
import torch

from train.engine.freed_memory import keep_freed_memory

SIZES = 6 * (3_000_000, 40_000, 1_500_000, 700_000)  # numbers of float32; as many as an update makes and frees
TIMES = 20


def faults(keep: bool) -> int:
    """Pages that the kernel handed out while the same tensors were made and freed TIMES times."""
    if keep:
        keep_freed_memory()
    for round in range(5 + TIMES):
        if round == 5:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(size) for size in SIZES]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.medium
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")
def test_memory_that_is_kept_is_not_asked_for_again() -> None:
    """In processes of their own: what one is told holds until it ends."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # this process may have been told already
        kept, returned = (pool.apply(faults, (keep,)) for keep in (True, False))
    assert 10 * kept < returned, (kept, returned)
