"""Stored score maps, and the bytes of samples that come from strangers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from schemas.errors import UserError
from schemas.shards import clip_meta, dequantize, guide_meta, npy_array, npy_bytes, quantize

SCORES = arrays(np.float32, array_shapes(min_dims=4, max_dims=4, max_side=5), elements=st.floats(-1, 1, width=32))


@given(SCORES)
def test_rounding_moves_a_score_by_half_a_step_at_most(scores: np.ndarray) -> None:
    stored, scale, offset = quantize(scores)
    assert stored.dtype == np.uint8 and stored.shape == scores.shape
    for kept, step, low, exact in zip(stored, scale, offset, scores, strict=True):
        assert np.abs(dequantize(kept, step, low) - exact).max() <= step / 2 + 1e-6


@given(SCORES)
def test_rounding_keeps_the_order_of_scores(scores: np.ndarray) -> None:
    stored, _, _ = quantize(scores)
    for kept, exact in zip(stored, scores, strict=True):
        order = np.argsort(exact, axis=None, kind="stable")
        assert (np.diff(kept.ravel()[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_refused(bad: float) -> None:
    scores = np.zeros((1, 2, 3, 3), np.float32)
    scores[0, 1, 2, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize(scores)


def test_nothing_is_ever_pickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pickled"):
        npy_bytes(np.array([{}], dtype=object))
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="would be unpickled"):
        npy_array(buffer.getvalue())


def test_an_array_comes_back() -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert (npy_array(npy_bytes(array)) == array).all()


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"video_id": 3}', b"\xff"])
def test_a_strangers_json_is_refused_by_name(data: bytes) -> None:
    for read in (clip_meta, guide_meta):
        with pytest.raises(UserError, match="000003.tar at byte 7"):
            read(data, "000003.tar at byte 7")
