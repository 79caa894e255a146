"""Memory that a process has freed and asks for again: whether the kernel is asked, too."""

from __future__ import annotations

import ctypes
import platform
import resource
from multiprocessing import get_context

import pytest
import torch

from train.engine.freed_memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory

SIZES = 6 * (3_000_000, 40_000, 1_500_000, 700_000)  # numbers of float32; as many as an update makes and frees
TIMES = 20


def faults(keep: bool) -> int:
    """Pages that the kernel handed out while the same tensors were made and freed TIMES times."""
    for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):  # what a process begins with; some learn to keep more
        ctypes.CDLL(None).mallopt(option, 128 * 1024)
    if keep:
        keep_freed_memory()
    for turn in range(5 + TIMES):
        if turn == 5:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(size) for size in SIZES]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.medium
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")
def test_memory_that_is_kept_is_not_asked_for_again() -> None:
    """In processes of their own: what one is told holds until it ends."""
    with get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        kept, returned = (pool.apply(faults, (keep,)) for keep in (True, False))
    assert 10 * kept < returned, (kept, returned)
