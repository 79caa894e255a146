"""Pictures: sizes, colours where they must be, and files that open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.pictures import GAP, loss_curve, mask_picture, save_png

CLIP = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3)).astype(np.uint8)


def test_a_mask_picture_shows_frames_scores_and_mask(tmp_path: Path) -> None:
    scores = np.zeros((4, 4, 6))
    scores[:, 1, 2] = 1
    image = mask_picture(CLIP, scores, scores > 0)
    assert image.shape == (3 * (32 + GAP) - GAP, 4 * (48 + GAP) - GAP, 3) and image.dtype == np.uint8
    assert np.array_equal(image[:32, :48], CLIP[0]) and np.array_equal(image[:32, 52:100], CLIP[2])
    masked = image[2 * (32 + GAP) :, :48]
    assert (masked[10:15, 18:23] == 128).all() and np.array_equal(masked[:8], CLIP[0, :8])
    hot = image[32 + GAP :, :48].astype(int)
    assert hot[10, 18, 0] > hot[20, 40, 0]
    save_png(tmp_path / "mask.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png")), image)


def test_columns_and_captions() -> None:
    assert mask_picture(CLIP, columns=3).shape == (32, 3 * (48 + GAP) - GAP, 3)
    assert mask_picture(CLIP, mask_Thw=np.ones((4, 4, 6), bool), text="a\nred 球").shape[0] == 2 * (32 + GAP) - GAP + 20
    with pytest.raises(ValueError, match="does not divide"):
        mask_picture(CLIP, np.zeros((4, 5, 6)))


def test_a_curve_is_drawn() -> None:
    image = loss_curve(
        {"a": [(x, 1 / (x + 1)) for x in range(50)], "b": [(0, 0.5), (30, float("nan")), (49, 0.2)]}, title="loss"
    )
    assert image.shape == (420, 800, 3)
    assert (image == (0x1F, 0x77, 0xB4)).all(-1).sum() > 300 and (image == (0xFF, 0x7F, 0x0E)).all(-1).sum() > 300
    assert loss_curve({"one": [(3.0, 0.0)]}).shape == (420, 800, 3)
    with pytest.raises(ValueError, match="no point"):
        loss_curve({"a": [(0, float("inf"))]})
