"""Loader workers: too little memory is noticed before, a dead worker after; neither hangs."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from torch.utils.data import Dataset

from schemas.errors import UserError
from train.data.loading import check_shared_memory, loaded


class Numbers(Dataset[int]):
    """Its worker is killed at number `at`."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at

    def __getitem__(self, number: int) -> int:
        if number == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return number


def read(dataset: Dataset[Any], workers: int) -> list[list[int]]:
    batches = [[0, 1], [2, 3], [4, 5]]
    return list(loaded(dataset, batches, collate=list, workers=workers, pin=False, batch_bytes=16))


@pytest.mark.medium
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order(workers: int) -> None:
    assert read(Numbers(), workers) == [[0, 1], [2, 3], [4, 5]]


def test_a_dead_worker_ends_the_run_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"loader worker died.*pretrain\.workers=0"):
        read(Numbers(at=2), workers=2)


def test_too_little_shared_memory_is_noticed_before_training() -> None:
    check_shared_memory(1)
    with pytest.raises(UserError, match=r"keep about 1000000 MB of batches ready in /dev/shm.*--shm-size"):
        check_shared_memory(10**12)
