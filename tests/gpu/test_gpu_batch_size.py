"""What only a GPU can show of a batch size that is found: its meter. `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import pytest
import torch

from pipeline.runtime.batch_size import MEMORY, found_size, meter_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


class Products:
    """A model of products of matrices, of `each` bytes an input."""

    def __init__(self, each: int) -> None:
        self.batch_size, self._each = 0, each
        self._weights = torch.randn(1024, 1024, device="cuda")

    def __call__(self, size: int) -> int:
        inputs = torch.zeros(size, max(1, self._each // 4096), 1024, device="cuda")
        inputs @ self._weights
        return size


def test_a_share_of_the_memory_is_kept_to() -> None:
    """Inputs of a 20th of the memory each: as many as fit twice, for the product is as large."""
    _, total = torch.cuda.mem_get_info()
    for share in (1.0, 0.5):
        meter = meter_of("cuda", share)
        assert meter is not None
        found = found_size(Products(int(share * total) // 20), Products(int(share * total) // 20), 16, meter)
        assert 1 <= found * 2 / 20 <= MEMORY


def test_small_inputs_go_faster_together() -> None:
    meter = meter_of("auto", 1.0)
    assert meter is not None
    model = Products(4096)
    assert found_size(model, model, 1024, meter) >= 1024
