"""Motion vectors of our own clips: direction, length and place of motion that is known."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.guides import Floats
from pipeline.guides.motion import CodecMotion, MotionGuide, NoMotion, cell_motion, fill, nearest_mean
from pipeline.media.decoding import iter_frames
from pipeline.media.video import NoFrames, VideoError
from pipeline.world.scene import render, sample_scene
from schemas.config import Motion
from tests.pipeline.guides.moving import SIZE, mp4, panned, texture


def fields(data: bytes, frames: int, patch: int = 16) -> Floats:
    return np.concatenate(list(CodecMotion(patch)(data, 4, frames)))


def score(data: bytes, frames: int, **options: Any) -> Floats:
    motion = Motion(**options)
    found = MotionGuide(motion).score(CodecMotion(motion.patch)(data, motion.frame_stride, frames), [])
    assert found.maps is not None and found.text is None
    return found.maps


@pytest.mark.parametrize("preset", ["ultrafast", "veryfast", "medium"])
@pytest.mark.parametrize(("dx", "dy"), [(3, -2), (-5, 0)])
def test_a_moving_texture_has_the_motion_it_was_drawn_with(dx: int, dy: int, preset: str) -> None:
    """Also by presets that would refer to frames further back, if the encoder let them."""
    motion_T2 = fields(mp4(panned(14, dx, dy), preset=preset), 14)
    assert motion_T2.shape == (14, 6, 8, 2)
    assert np.isnan(motion_T2[[0, 6, 12]]).all()  # key frames tell nothing
    told = motion_T2[~np.isnan(motion_T2[..., 0])]
    assert len(told) > 400
    np.testing.assert_allclose(np.median(told, axis=0), (dx, dy), atol=0.1)
    assert (np.abs(told - (dx, dy)).max(1) < 0.5).mean() > 0.9


def test_frames_in_between_have_no_speeds() -> None:
    with pytest.raises(NoMotion, match=r"shard\.bframes = 0"):
        fields(mp4(panned(14, 3, -2), bframes=3), 14)


def test_the_camera_is_taken_out() -> None:
    """What moves with everything scores nothing, what stands still in a moving picture does."""
    pictures = [picture.copy() for picture in panned(12, 4, 0)]
    still = texture(32, 32, seed=1)
    for picture in pictures:
        picture[32:64, 48:80] = still
    data = mp4(pictures)
    inside = np.zeros((6, 8), bool)
    inside[2:4, 3:5] = True
    maps = {remove: score(data, 12, remove_camera=remove)[0] for remove in (True, False)}
    assert maps[True][:, inside].mean() == pytest.approx(4, abs=0.5) and np.median(maps[True][:, ~inside]) < 0.1
    assert maps[False][:, inside].mean() < 0.5 and np.median(maps[False][:, ~inside]) == pytest.approx(4, abs=0.1)


def test_a_moving_object_scores_highest() -> None:
    """A square that goes 3 pixels a frame over a still background."""
    background, thing = texture(*SIZE), texture(24, 24, seed=1)
    pictures, covered = [], []
    for t in range(13):
        left = 8 + 3 * t
        picture, mask = background.copy(), np.zeros(SIZE, bool)
        picture[40:64, left : left + 24], mask[40:64, left : left + 24] = thing, True
        pictures.append(picture)
        covered.append(mask.reshape(6, 16, 8, 16).any((1, 3)))
    (maps_THW,) = score(mp4(pictures), 13, frame_stride=1)
    for t in range(13):
        assert covered[t].flat[maps_THW[t].argmax()]
        assert 1 < maps_THW[t].max() < 4 and np.median(maps_THW[t]) == 0


def test_the_named_object_of_the_world_outruns_the_rest() -> None:
    inside, outside = [], []
    scenes = [sample_scene(0, index, size=128, frames=24) for index in range(30)]
    for scene in [scene for scene in scenes if scene.motion in ("sliding sideways", "bouncing up and down")][:4]:
        pictures, ids = render(scene)
        (maps_THW,) = score(mp4(pictures, gop=12), 24, frame_stride=1)
        object_THW = (ids == 1).reshape(24, 8, 16, 8, 16).mean((2, 4)) > 0.5
        nothing_THW = (ids == 0).reshape(24, 8, 16, 8, 16).all((2, 4))
        inside.append(maps_THW[object_THW].mean())
        outside.append(maps_THW[nothing_THW].mean())
    assert len(inside) == 4 and min(inside) > 0.5
    assert np.mean(inside) > 4 * np.mean(outside), (inside, outside)


@pytest.mark.parametrize(("frames", "stride"), [(14, 4), (13, 4), (5, 9), (1, 4), (12, 1)])
def test_one_map_for_every_scored_frame(frames: int, stride: int) -> None:
    maps = score(mp4(panned(frames, 3, 0)), frames, frame_stride=stride, patch=32)
    assert maps.shape == (1, -(-frames // stride), 3, 4) and maps.dtype == np.float32
    assert np.isfinite(maps).all() and (maps >= 0).all()


def test_key_frames_alone_tell_of_no_motion() -> None:
    with pytest.raises(NoMotion, match=r"shard\.gop"):
        score(mp4(panned(5, 3, 0), gop=1), 5)


def test_other_files_than_ours() -> None:
    data = mp4(panned(5, 1, 0))
    with pytest.raises(NoFrames, match="has 5 frames, its index says 6"):
        fields(data, 6)
    with pytest.raises(VideoError):
        fields(b"not a video", 5)


def test_a_cell_is_the_mean_over_its_told_area() -> None:
    """Against a plain loop over pixels, with a frame that neither cells nor blocks divide."""
    rng = np.random.default_rng(0)
    height, width, patch = 54, 70, 20
    names = ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")
    told = []
    places = rng.permutation(20)[:12]  # of the 4 x 5 blocks of 16 pixels that cover the frame, some beyond its edge
    shapes = rng.choice([8, 16], (12, 2))
    for place, (w, h) in zip(places, shapes, strict=True):
        y, x = 16 * (place // 5), 16 * (place % 5)
        source = rng.choice([-1, 1])
        told.append((source, w, h, x + w // 2, y + h // 2, rng.integers(-40, 40), rng.integers(-40, 40), 4))
    vectors = np.array(told, [(name, "i4") for name in names])
    pixels = np.full((height, width, 2), np.nan)
    for source, w, h, x, y, mx, my, scale in vectors.tolist():
        top, left = y - h // 2, x - w // 2
        pixels[top : top + h, left : left + w] = (source * mx / scale, source * my / scale)
    found = cell_motion(vectors, height, width, patch)
    assert found.shape == (3, 4, 2)
    # Cells are not whole pixels: each pixel is cut in 12 x 14 parts, whose number divides by 3 and by 4.
    fine = pixels.repeat(12, 0).repeat(14, 1)
    for row in range(3):
        for column in range(4):
            part = fine[row * 216 : (row + 1) * 216, column * 245 : (column + 1) * 245].reshape(-1, 2)
            known = part[~np.isnan(part[:, 0])]
            expected = known.mean(0) if len(known) else [np.nan, np.nan]
            np.testing.assert_allclose(found[row, column], expected, rtol=1e-4, atol=1e-5)


@given(arrays(np.float32, (9, 2, 3), elements=st.sampled_from([np.nan, 0.0, 1.0, 5.0, -2.0])))
@settings(max_examples=60)
def test_gaps_are_filled_from_both_sides(x_THW: Floats) -> None:
    motion_T2 = np.stack((x_THW, 2 * x_THW), -1)
    filled = motion_T2.copy()
    fill(filled)
    for place in np.ndindex(motion_T2.shape):
        series = motion_T2[:, place[1], place[2], place[3]]
        known = np.flatnonzero(~np.isnan(series))
        before, after = known[known <= place[0]][-1:], known[known >= place[0]][:1]
        ends = [series[end[0]] for end in (before, after) if len(end)]
        assert filled[place] == (np.mean(ends) if ends else 0)


@given(frames=st.integers(1, 40), stride=st.integers(1, 9))
@settings(max_examples=60)
def test_a_map_is_the_mean_over_the_frames_that_take_it(frames: int, stride: int) -> None:
    """Those for which the trainer takes it."""
    from train.data.augment import map_numbers

    maps_THW = np.random.default_rng(frames).random((frames, 2, 2)).astype(np.float32)
    scored = -(-frames // stride)
    numbers = map_numbers(np.arange(frames), frame_stride=stride, maps=scored)
    expected = [maps_THW[numbers == number].mean(0) for number in range(scored)]
    np.testing.assert_allclose(nearest_mean(maps_THW, stride), expected, rtol=1e-5)


def test_long_videos_are_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = mp4(panned(14, 3, -2))
    whole = fields(data, 14)
    monkeypatch.setattr("pipeline.guides.motion.CHUNK", 4)
    parts = list(CodecMotion(16)(data, 4, 14))
    assert [len(part) for part in parts] == [4, 4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("folder", ["signs/eat", "actions/yoga"])
def test_real_clips(real_clips: Path, folder: str) -> None:
    """Every frame of a person in motion is told of, and what moves is a part of the picture."""
    path = min((real_clips / folder).iterdir())
    pictures = list(islice(iter_frames(path), 48))
    (maps,) = score(mp4(pictures, gop=12, crf=23, short_side=128), len(pictures))
    assert len(maps) == -(-len(pictures) // 4) and np.isfinite(maps).all()
    assert maps.max() > 0.5
    assert np.median(maps) < maps.max() / 4
