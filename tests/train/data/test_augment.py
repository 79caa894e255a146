"""Geometry: crops as VideoMAE draws them, and score maps that follow the pixels."""

from __future__ import annotations

import functools
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from train.data.augment import (
    Crop,
    anchors,
    axis_points,
    axis_weights,
    centre_crop,
    clip_scores,
    map_numbers,
    multi_scale_crop,
    resample_map,
    resize_crop,
)

SCALES = (1.0, 0.875, 0.75, 0.66)


def videomae_crops(width: int, height: int, size: int) -> set[tuple[int, int, int, int]]:
    """All crops (left, top, width, height) that VideoMAE's GroupMultiScaleCrop can draw, in its own steps."""
    base = min(width, height)
    sides = [int(base * scale) for scale in SCALES]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    found = set()
    for i, h in enumerate(sides):
        for j, w in enumerate(sides):
            if abs(i - j) > 1:
                continue
            w_step, h_step = (width - w) // 4, (height - h) // 4
            for x, y in (
                (0, 0),
                (4, 0),
                (0, 4),
                (4, 4),
                (2, 2),
                (0, 2),
                (4, 2),
                (2, 4),
                (2, 0),
                (1, 1),
                (3, 1),
                (1, 3),
                (3, 3),
            ):
                found.add((x * w_step, y * h_step, w, h))
    return found


@pytest.mark.parametrize(("width", "height", "size"), [(340, 256, 224), (256, 340, 224), (226, 226, 224), (96, 64, 32)])
def test_crops_are_those_of_videomae(width: int, height: int, size: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [multi_scale_crop(width, height, size=size, scales=SCALES, rng=rng) for _ in range(4000)]
    assert {(c.left, c.top, c.width, c.height) for c in drawn} == videomae_crops(width, height, size)
    assert len(anchors(100, 100)) == len(set(anchors(100, 100))) == 13
    pairs = Counter((c.width, c.height) for c in drawn)
    assert len(pairs) == 10 and max(pairs.values()) < 1.5 * min(pairs.values())


@given(st.integers(16, 400), st.integers(16, 400), st.integers(0, 9999))
def test_crops_lie_within_the_frame(width: int, height: int, seed: int) -> None:
    crop = multi_scale_crop(width, height, size=224, scales=SCALES, rng=np.random.default_rng(seed))
    assert crop.left >= 0 and crop.top >= 0 and crop.width > 0 and crop.height > 0
    assert crop.left + crop.width <= width and crop.top + crop.height <= height


@pytest.mark.parametrize("crop", [Crop(10, 4, 50, 40, 96, 64), Crop(0, 0, 64, 64, 96, 64), Crop(3, 9, 20, 30, 96, 64)])
def test_resizing_is_pils(crop: Crop) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    ours = resize_crop(clip, crop, 32)
    assert ours.shape == (2, 32, 32, 3) and ours.is_contiguous()
    for frame, got in zip(clip, ours, strict=True):
        box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
        theirs = np.asarray(Image.fromarray(frame).crop(box).resize((32, 32), Image.Resampling.BILINEAR))
        assert np.abs(got.numpy().astype(int) - theirs.astype(int)).max() <= 1


def test_a_crop_of_the_asked_size_is_copied_and_mirrored() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3)).astype(np.uint8)
    assert np.array_equal(resize_crop(clip, Crop(7, 5, 32, 32, 50, 40), 32), clip[:, 5:37, 7:39])
    assert np.array_equal(resize_crop(clip, Crop(7, 5, 32, 32, 50, 40, flip=True), 32), clip[:, 5:37, 7:39][:, :, ::-1])
    with pytest.raises(ValueError, match="a crop of 60 x 40 frames"):
        resize_crop(clip, Crop(0, 0, 32, 32, 60, 40), 32)


def test_the_centre() -> None:
    assert centre_crop(96, 64) == Crop(16, 0, 64, 64, 96, 64)
    assert centre_crop(64, 97) == Crop(0, 16, 64, 64, 64, 97)


@st.composite
def geometries(draw: Any) -> tuple[np.ndarray[Any, Any], Crop, tuple[int, int]]:
    """A map, a crop of a frame, and a grid such that whole pixels can be counted (see the brute force)."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    height, width = draw(st.integers(2, 12)), draw(st.integers(2, 12))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    crop = Crop(left, top, draw(st.integers(1, width - left)), draw(st.integers(1, height - top)), width, height)
    values = np.random.default_rng(draw(st.integers(0, 999))).integers(0, 256, (rows, columns)).astype(np.uint8)
    return values, crop, (draw(st.integers(1, 5)), draw(st.integers(1, 5)))


@given(geometries())
def test_resampling_is_the_mean_over_pixels(geometry: tuple[np.ndarray[Any, Any], Crop, tuple[int, int]]) -> None:
    """Brute force: the map painted on a canvas so fine that cells and crop fall on whole pixels."""
    values, crop, (h, w) = geometry
    (rows, columns), height, width = values.shape, crop.frame_height, crop.frame_width
    canvas = np.kron(values.astype(float), np.ones((height * h, width * w)))  # rows*height*h by columns*width*w
    y, x = rows * h, columns * w  # canvas pixels of a frame's pixel
    cut = canvas[crop.top * y : (crop.top + crop.height) * y, crop.left * x : (crop.left + crop.width) * x]
    expected = cut.reshape(h, crop.height * rows, w, crop.width * columns).mean((1, 3))
    np.testing.assert_allclose(resample_map(values, crop, (h, w)), expected, rtol=0, atol=1e-9)


@given(geometries())
def test_points_are_sampled_at_the_centres(geometry: tuple[np.ndarray[Any, Any], Crop, tuple[int, int]]) -> None:
    """scipy's linear interpolation, at the place of each token's centre in the frame."""
    values, crop, (h, w) = geometry
    y = (crop.top + crop.height * (np.arange(h) + 0.5) / h) / crop.frame_height * values.shape[0] - 0.5
    x = (crop.left + crop.width * (np.arange(w) + 0.5) / w) / crop.frame_width * values.shape[1] - 0.5
    places = np.meshgrid(y, x, indexing="ij")
    expected = ndimage.map_coordinates(values.astype(float), places, order=1, mode="nearest")
    np.testing.assert_allclose(resample_map(values, crop, (h, w), points=True), expected, rtol=0, atol=1e-9)


@given(geometries(), st.booleans())
def test_flipping_the_crop_flips_the_map(
    geometry: tuple[np.ndarray[Any, Any], Crop, tuple[int, int]], points: bool
) -> None:
    values, crop, grid = geometry
    resample = functools.partial(resample_map, points=points)
    flipped = resample(values, Crop(**{**vars(crop), "flip": True}), grid)
    np.testing.assert_allclose(flipped, resample(values, crop, grid)[:, ::-1], atol=1e-9)
    mirrored = Crop(**{**vars(crop), "left": crop.frame_width - crop.left - crop.width, "flip": True})
    np.testing.assert_allclose(resample(values[:, ::-1], mirrored, grid), resample(values, crop, grid), atol=1e-9)


@given(geometries(), st.integers(0, 255), st.booleans())
def test_a_constant_map_stays_constant(
    geometry: tuple[np.ndarray[Any, Any], Crop, tuple[int, int]], value: int, points: bool
) -> None:
    values, crop, grid = geometry
    stored = np.full((3, *values.shape), value, np.uint8)
    scores = clip_scores(stored, np.arange(4), crop, frame_stride=2, grid=(2, *grid), points=points)
    assert (scores == value).all()


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 0.9), st.floats(0.05, 1))
def test_weights_are_shares(source: int, target: int, start: float, length: float) -> None:
    weights = axis_weights(start, min(length, 1 - start), source, target)
    assert weights.shape == (target, source) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("weigh", [axis_weights, axis_points])
def test_an_interval_beyond_the_frame_is_refused(weigh: Any) -> None:
    with pytest.raises(ValueError, match="not within"):
        weigh(0.5, 0.6, 4, 4)


def test_the_whole_frame_on_its_own_grid_is_the_map_itself() -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 14, 14)).astype(np.uint8)
    whole = Crop(0, 0, 256, 256, 256, 256)
    assert np.array_equal(np.round(resample_map(values, whole, (14, 14)), 9), values)


def test_frames_take_the_nearest_map_and_tubelets_their_mean() -> None:
    assert map_numbers(np.asarray([0, 1, 2, 3, 4, 5, 19]), frame_stride=4, maps=3).tolist() == [0, 0, 0, 1, 1, 1, 2]
    maps = np.stack([np.full((2, 2), 10 * m, np.uint8) for m in range(4)])
    frames = np.asarray([0, 4, 8, 12])
    scores = clip_scores(maps, frames, Crop(0, 0, 8, 8, 8, 8), frame_stride=4, grid=(2, 2, 2))
    assert scores[:, 0, 0].tolist() == [5, 25]


def test_maps_follow_pixels() -> None:
    """A bright object in the pixels and a high score on the same place stay on the same tokens."""
    rng = random.Random(0)
    for _ in range(20):
        image = np.zeros((1, 64, 96, 3), np.uint8)
        row, column = rng.randrange(8), rng.randrange(12)
        image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
        scores = np.zeros((1, 8, 12), np.uint8)
        scores[0, row, column] = 255
        draw = np.random.default_rng(rng.randrange(1000))
        crop = multi_scale_crop(96, 64, size=32, scales=SCALES, rng=draw, flip=rng.random() < 0.5)
        pixels = resize_crop(image, crop, 32)[0, :, :, 0].numpy().reshape(4, 8, 4, 8).mean((1, 3))
        np.testing.assert_allclose(resample_map(scores, crop, (4, 4))[0], pixels, atol=8)
