"""The flow of a clip out of stored maps, and the map that it carries (MGMAE)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.shards import quantize
from train.data.augment import Crop
from train.data.clip_flow import clip_flow, intervals
from train.masking.carried_map import FINE, speeds, visible_sums
from train.masking.masks import optical_flow, tube

WIDTH, HEIGHT = 96, 64
WHOLE = Crop(0, 0, WIDTH, HEIGHT, WIDTH, HEIGHT)
seeds = st.integers(0, 2**32)


def stored(speed_F2: np.ndarray[Any, Any], frame_stride: int) -> tuple[np.ndarray[Any, Any], list[float], list[float]]:
    """The sidecar of a video that moves as a whole, at (x, y) pixels a frame after each scored frame."""
    step_F2 = speed_F2 * frame_stride
    ahead, back = step_F2.copy(), -np.roll(step_F2, 1, axis=0)
    ahead[-1] = back[0] = 0  # there is no next and no previous scored frame
    maps = np.concatenate([ahead.T, back.T])[..., None, None].astype(np.float32)
    return quantize(np.broadcast_to(maps, (*maps.shape[:2], 5, 7)).copy())


def flow(speed_F2: np.ndarray[Any, Any], frames: np.ndarray[Any, Any], crop: Crop, *, frame_stride: int = 4,
         grid: tuple[int, int, int] = (2, 3, 4)) -> np.ndarray[Any, Any]:  # fmt: skip
    maps, scale, offset = stored(speed_F2, frame_stride)
    return clip_flow(maps, scale, offset, frames, crop, frame_stride=frame_stride, grid=grid)


@given(st.integers(0, 30), st.integers(1, 9), st.integers(1, 6), st.integers(1, 9))
def test_intervals_cover_the_way(start: int, length: int, frame_stride: int, maps: int) -> None:
    by_frame = [min(frame // frame_stride, maps - 1) for frame in range(start, start + length)]
    assert [i for i, n in intervals(start, start + length, frame_stride, maps) for _ in range(n)] == by_frame
    assert intervals(start, start, frame_stride, maps) == []


@given(st.integers(0, 20), st.integers(1, 7), st.integers(1, 6), st.integers(2, 6), seeds)
def test_a_step_adds_up_the_motion_of_its_frames(
    start: int, stride: int, frame_stride: int, maps: int, seed: int
) -> None:
    """Speeds that differ by interval but not by place, followed frame by frame."""
    speed_F2 = np.random.default_rng(seed).normal(size=(maps, 2))
    speed_F2[-1] = speed_F2[-2]  # after the last scored frame the motion before it goes on
    total = (maps - 1) * frame_stride + 1
    frames = np.minimum(start + stride * np.arange(4), total - 1)
    found = flow(speed_F2, frames, WHOLE, frame_stride=frame_stride).reshape(4, -1, 2)
    cells = np.asarray([4 * FINE / WIDTH, 3 * FINE / HEIGHT])
    for t, (first, last, sign) in enumerate([(0, 1, 1), (1, 2, 1), (0, 0, 0), (2, 3, -1)]):
        way = [speed_F2[min(n // frame_stride, maps - 1)] for n in range(frames[first], frames[last])]
        expected = sign * np.sum(way, axis=0) * cells if way else np.zeros(2)
        np.testing.assert_allclose(found[t], np.broadcast_to(expected, found[t].shape), atol=stride * 0.1)


def test_the_flow_takes_the_crop_the_resize_and_the_flip() -> None:
    speed = np.tile([3.0, -2.0], (9, 1))
    crop = Crop(8, 16, 48, 32, WIDTH, HEIGHT)
    found = flow(speed, np.arange(0, 8, 2), crop)
    expected = 2 * np.asarray([3 * 4 * FINE / 48, -2 * 3 * FINE / 32])
    np.testing.assert_allclose(found[0], np.broadcast_to(expected, found[0].shape), rtol=1e-5)
    np.testing.assert_allclose(found[1, 1], np.broadcast_to(-expected, found[1, 1].shape), rtol=1e-5)
    assert (found[1, 0] == 0).all()  # the middle frame
    flipped = flow(speed, np.arange(0, 8, 2), replace(crop, flip=True))
    np.testing.assert_allclose(flipped, found * [-1, 1], rtol=1e-5)
    np.testing.assert_allclose(speeds(found)[0], math.hypot(*expected) / FINE, rtol=1e-5)


@given(seeds)
def test_a_flipped_clip_has_the_flipped_flow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps, scale, offset = quantize(rng.normal(size=(4, 5, 6, 8)).astype(np.float32) * 5)
    crop = Crop(16, 8, 32, 48, WIDTH, HEIGHT)
    options: dict[str, Any] = {"frame_stride": 4, "grid": (2, 3, 4)}
    found = clip_flow(maps, scale, offset, np.arange(3, 15, 3), crop, **options)
    flipped = clip_flow(maps, scale, offset, np.arange(3, 15, 3), replace(crop, flip=True), **options)
    np.testing.assert_allclose(flipped, found[:, :, :, ::-1] * [-1, 1], atol=1e-9)


def test_repeated_frames_and_single_maps_do_not_move() -> None:
    assert (flow(np.tile([3.0, 1.0], (4, 1)), np.full(4, 7), WHOLE) == 0).all()
    assert (flow(np.asarray([[3.0, 1.0]]), np.arange(4), WHOLE) == 0).all()


def look_up_by_hand(field: np.ndarray[Any, Any], y: float, x: float) -> float:
    """Bilinear, zero beyond the frame."""
    top, left, total = math.floor(y), math.floor(x), 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < field.shape[0] and 0 <= column < field.shape[1]:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * field[row, column]
    return total


@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(2, 3), st.integers(1, 3), st.floats(0, 8), seeds)
def test_the_carried_map_by_loops(t: int, tubelet: int, h: int, w: int, size: float, seed: int) -> None:
    """MGMAE's steps, cell after cell: Gaussians, backward warp towards both ends, hole filling, sums."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(size=(t, tubelet, h * FINE, w * FINE, 2)) * size
    sums = visible_sums(moves, 2, np.random.default_rng(seed))

    chosen = np.random.default_rng(seed).choice(h * w, 2, replace=False)
    middle = np.zeros((h * FINE, w * FINE))
    for y, x in np.ndindex(middle.shape):
        for token in chosen:
            dy, dx = (y + 0.5) / FINE - (token // w + 0.5), (x + 0.5) / FINE - (token % w + 0.5)
            middle[y, x] = max(middle[y, x], math.exp(-(dy**2) - dx**2))
    frames, base = moves.reshape(t * tubelet, *moves.shape[2:]), t * tubelet // 2
    maps = {base: middle}
    for frame in [*range(base - 1, -1, -1), *range(base + 1, t * tubelet)]:
        before = maps[frame + 1 if frame < base else frame - 1]
        maps[frame] = np.zeros_like(middle)
        for y, x in np.ndindex(middle.shape):
            dx, dy = frames[frame][y, x]
            maps[frame][y, x] = look_up_by_hand(before, y + dy, x + dx) or middle[y, x]
    for place, row, column in np.ndindex(t, h, w):
        cells = np.s_[row * FINE : (row + 1) * FINE, column * FINE : (column + 1) * FINE]
        expected = sum(maps[place * tubelet + frame][cells].sum() for frame in range(tubelet))
        assert sums[place, row, column] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_map_moves_with_a_constant_translation() -> None:
    """Half a token a frame to the right: one a time slice, and every slice is the one before, shifted."""
    moves = np.zeros((6, 2, 9 * FINE, 9 * FINE, 2))
    moves.reshape(12, -1, 2)[:6] = [FINE / 2, 0]
    moves.reshape(12, -1, 2)[7:] = [-FINE / 2, 0]
    sums = visible_sums(moves, 12, np.random.default_rng(0))
    for t in (3, 4):  # after the middle: columns that come in at the left are not known
        np.testing.assert_allclose(sums[t + 1, :, 3:], sums[t, :, 2:-1], rtol=1e-9)
    for t in (0, 1):
        np.testing.assert_allclose(sums[t, :, : 9 - 4], sums[t + 1, :, 1 : 9 - 3], rtol=1e-9)


def followed(mask: np.ndarray[Any, Any], speed: np.ndarray[Any, Any]) -> float:
    """Share of visible tokens whose content was visible in the middle slice, where it was in the frame then.

    speed: (x, y) in tokens a slice.
    """
    t, h, w = mask.shape
    hits = []
    for place, y, x in np.argwhere(~mask):
        row, column = np.rint([y, x] - (place - t // 2) * speed[::-1]).astype(int)
        if 0 <= row < h and 0 <= column < w:
            hits.append(not mask[t // 2, row, column])
    return float(np.mean(hits))


@pytest.mark.parametrize("flip", [False, True])
def test_what_is_visible_follows_a_texture_that_moves(flip: bool) -> None:
    """Stored in pixels of the frame, cropped, enlarged and mirrored: a tube would lose the texture."""
    pixels = np.asarray([1.25, -1.25])  # a frame: one token a time slice
    crop = Crop(10, 4, 60, 60, WIDTH, HEIGHT, flip)
    grid, frames = (8, 12, 12), np.arange(1, 33, 2)
    maps, scale, offset = stored(np.tile(pixels, (9, 1)), 4)
    moves = clip_flow(maps, scale, offset, frames, crop, frame_stride=4, grid=grid)
    tokens = pixels * 4 * 12 / 60 * [-1 if flip else 1, 1]
    masks = [optical_flow(moves, 108, np.random.default_rng(seed)) for seed in range(8)]
    tubes = [tube(grid, 108, np.random.default_rng(seed)) for seed in range(8)]
    assert np.mean([followed(mask, tokens) for mask in masks]) > 0.75
    assert np.mean([followed(mask, tokens) for mask in tubes]) < 0.5
