"""Pictures: sizes, colours where they must be, and files that open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.pictures import heat, hide, loss_curve, save_png

CLIP = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3)).astype(np.uint8)


def test_hidden_patches_are_grey_and_the_rest_is_the_frame(tmp_path: Path) -> None:
    mask = np.zeros((8, 4, 6), bool)
    mask[:, 1, 2] = True
    image = hide(CLIP, mask)
    assert (image[:, 9:16, 17:24] == 128).all() and (image[:, 8, 16:24] == 98).all()
    assert np.array_equal(image[:, :8], CLIP[:, :8]) and np.array_equal(image[:, 16:], CLIP[:, 16:])
    save_png(tmp_path / "mask.png", image[0])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png")), image[0])


def test_greater_scores_are_brighter() -> None:
    scores = np.tile(np.linspace(-1, 1, 24).reshape(4, 6), (8, 1, 1))
    image = heat(CLIP, scores, low=-1, high=1, opacity=1).astype(int)
    patches = image.reshape(8, 4, 8, 6, 8, 3).mean((2, 4))  # one colour each
    assert (np.diff(patches.sum(-1).reshape(8, 24), axis=1) > 0).all()
    assert np.array_equal(heat(CLIP, scores, low=-2, high=3, opacity=0), heat(CLIP, -scores, low=0, high=1, opacity=0))


def test_a_curve_is_drawn() -> None:
    image = loss_curve(
        {"a": [(x, 1 / (x + 1)) for x in range(50)], "b": [(0, 0.5), (30, float("nan")), (49, 0.2)]}, title="loss"
    )
    assert image.shape == (420, 800, 3)
    assert (image == (0x1F, 0x77, 0xB4)).all(-1).sum() > 300 and (image == (0xFF, 0x7F, 0x0E)).all(-1).sum() > 300
    assert loss_curve({"one": [(3.0, 0.0)]}).shape == (420, 800, 3)
    with pytest.raises(ValueError, match="no point"):
        loss_curve({"a": [(0, float("inf"))]})
