"""Batches on their way to the device."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from train.data.device_copies import on_device


class Some(NamedTuple):
    x: Tensor
    nothing: Tensor | None
    keys: list[str]


def made(count: int) -> list[Some]:
    return [Some(torch.full((1000,), number), None, [str(number)]) for number in range(count)]


def test_on_the_cpu_batches_pass_as_they_are() -> None:
    batches = made(3)
    passed = list(on_device(iter(batches), torch.device("cpu")))
    assert len(passed) == 3 and all(ours is theirs for ours, theirs in zip(passed, batches, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_every_batch_arrives_whole_while_others_are_copied() -> None:
    device = torch.device("cuda", 0)
    pinned = [batch._replace(x=batch.x.pin_memory()) for batch in made(50)]
    sums = []
    for batch in on_device(iter(pinned), device):
        assert batch.x.device == device and batch.nothing is None
        torch.cuda._sleep(1_000_000)
        sums.append(batch.x.sum())
    assert [int(each) for each in sums] == [1000 * number for number in range(50)]
