"""Fine-tuning's augmentation: timm's, the same for all frames, and a function of what names it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.mixup import Mixup, mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch.nn import functional as F

from schemas.errors import UserError
from train.data.finetune_augment import (
    GROUP,
    Mixing,
    augment_frames,
    drawing,
    erase,
    rand_augment,
    resized_crop,
    smoothed,
)
from train.data.labelled import dense_frames, segment_frames
from train.models.cubes import IMAGENET_MEAN, IMAGENET_STD

NOTATION = "rand-m7-n4-mstd0.5-inc1"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clip(frames: int = 4, height: int = 24, width: int = 32) -> np.ndarray[Any, Any]:
    return rng().integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_dense_frames_are_videomaes(total: int, frames: int, stride: int, seed: int) -> None:
    """To the letter, but for whose random numbers they are (VideoMAE's kinetics.py, one segment)."""
    window = frames * stride
    if total <= window:
        literal = np.linspace(0, total, num=total // stride)
        literal = np.concatenate((literal, np.ones(frames - total // stride) * total))
        literal = np.clip(literal, 0, total - 1).astype(np.int64)
    else:
        end = int(rng(seed).integers(window, total))
        literal = np.clip(np.linspace(end - window, end, num=frames), end - window, end - 1).astype(np.int64)
    found = dense_frames(total, frames=frames, stride=stride, rng=rng(seed))
    assert found.tolist() == literal.tolist() and found.min() >= 0 and found.max() < total


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_segments_give_a_frame_each(total: int, frames: int, seed: int) -> None:
    found = segment_frames(total, frames=frames, rng=rng(seed))
    assert found.shape == (frames,) and found.min() >= 0 and found.max() < total and (np.diff(found) >= 0).all()
    if total >= frames:
        assert (found // (total // frames) == np.arange(frames)).all()


def test_a_video_with_fewer_frames_than_segments_still_moves() -> None:
    drawn = {tuple(segment_frames(3, frames=8, rng=rng(seed))) for seed in range(20)}
    assert len(drawn) > 5 and {frame for frames in drawn for frame in frames} == {0, 1, 2}


def test_global_generators_are_put_back() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    with drawing(rng()):
        first = random.random(), np.random.rand()  # noqa: NPY002
    with drawing(rng()):
        assert first == (random.random(), np.random.rand())  # noqa: NPY002
    assert expected == (random.random(), np.random.rand())  # noqa: NPY002


def test_rand_augment_does_the_same_to_every_frame() -> None:
    """Each frame is what timm makes of it alone, with one and the same draw."""
    frames, transform, changed = clip(), rand_augment(NOTATION), 0
    for seed in range(20):
        found = augment_frames(frames, transform, rng(seed))
        for frame, augmented in zip(frames, found, strict=True):
            with drawing(rng(seed)):
                assert np.array_equal(augmented, np.asarray(transform(Image.fromarray(frame))))
        changed += not np.array_equal(found, frames)
    assert changed > 10
    same = np.repeat(frames[:1], 4, 0)
    assert all((out == out[0]).all() for out in (augment_frames(same, transform, rng(seed)) for seed in range(20)))


@pytest.mark.parametrize("notation", ["augmix-m5", "rand-x3", "rand-m7.5"])
def test_what_is_not_timms_notation(notation: str) -> None:
    with pytest.raises(UserError, match=f"rand_augment = '{notation}' is not timm's notation"):
        rand_augment(notation)


@given(st.integers(8, 300), st.integers(8, 300), st.integers(0, 2**32 - 1))
def test_crops_are_shares_of_the_frame(width: int, height: int, seed: int) -> None:
    crop = resized_crop(width, height, (0.3, 0.6), rng(seed))
    assert 0 <= crop.left <= width - crop.width and 0 <= crop.top <= height - crop.height
    assert (crop.frame_width, crop.frame_height) == (width, height)
    if 2 / 3 < width / height < 3 / 2 and min(width, height) > 50:  # else timm may give up, and take the middle
        assert 0.28 < crop.width * crop.height / (width * height) < 0.62
        assert 0.73 < crop.width / crop.height < 1.37


def test_erasing_is_a_rectangle_of_noise_in_all_frames() -> None:
    grey = torch.full((6, 64, 64, 3), 124, dtype=torch.uint8)
    values, areas = [], []
    for seed in range(60):
        changed = erase(grey, 1.0, rng(seed)).float() - grey.float()
        place = changed.abs().sum((0, 3)) > 0
        rows, columns = place.any(1).nonzero()[:, 0], place.any(0).nonzero()[:, 0]
        box = place[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.float().mean() > 0.99 and place.sum() == box.sum()
        areas.append(float(place.float().mean()))
        inside = erase(grey, 1.0, rng(seed))[:, place].float() / 255
        values.append(((inside - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).flatten(0, 1))
        assert not torch.equal(inside[0], inside[1])
    assert min(areas) > 0.02 and max(areas) < 0.36
    noise = torch.cat(values)
    assert noise.mean(0).abs().max() < 0.02 and (noise.std(0) - 1).abs().max() < 0.05  # cut to bytes, so a little less
    untouched = [torch.equal(erase(grey, 0.25, rng(seed)), grey) for seed in range(200)]
    assert 0.65 < np.mean(untouched) < 0.85


def mixed_by_timm(
    x: torch.Tensor, label: torch.Tensor, mix: Mixup, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """timm itself, on clips whose frames are the channels of one picture."""
    with drawing(rng(seed)):
        images, target = mix(x.permute(0, 1, 4, 2, 3).flatten(1, 2).clone(), label)
    return images.unflatten(1, x.shape[1:2] + x.shape[-1:]).permute(0, 1, 3, 4, 2), target


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
def test_a_pair_is_mixed_as_by_timm(mixup: float, cutmix: float) -> None:
    x, label = torch.from_numpy(rng().normal(size=(2, 3, 16, 16, 3)).astype(np.float32)), torch.tensor([4, 1])
    for seed in range(10):
        theirs, target = mixed_by_timm(
            x, label, Mixup(mixup, cutmix, label_smoothing=0.1, num_classes=7), seed
        )  # fmt: skip
        ours, shares = Mixing(mixup, cutmix, 7)(x, label, repeats=1, draw=lambda group, seed=seed: rng(seed))
        assert torch.equal(ours, theirs) and not torch.equal(ours, x)
        torch.testing.assert_close(smoothed(shares, 0.1), target)
        logits = torch.from_numpy(rng(seed).normal(size=(2, 7)).astype(np.float32))
        torch.testing.assert_close(
            F.cross_entropy(logits, smoothed(shares, 0.1)), SoftTargetCrossEntropy()(logits, target)
        )


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("shares", [(10, 10), (4, 6, 10), (2,) * 10])
def test_mixing_does_not_depend_on_how_a_batch_is_shared(repeats: int, shares: tuple[int, ...]) -> None:
    """The clips of several processes, of an even number of videos each, are those of one process with all 20."""
    x = torch.from_numpy(rng().normal(size=(20 * repeats, 2, 8, 8, 3)).astype(np.float32))
    label, mix = torch.arange(20).repeat_interleave(repeats), Mixing(0.8, 1.0, 20)

    def mixed(first: int, videos: int) -> set[tuple[bytes, bytes]]:
        part = slice(first * repeats, (first + videos) * repeats)
        clips, classes = mix(x[part], label[part], repeats=repeats, draw=rng, first=first)
        return {(clip.numpy().tobytes(), row.numpy().tobytes()) for clip, row in zip(clips, classes, strict=True)}

    starts = np.cumsum((0, *shares))[:-1].tolist()
    whole, parts = mixed(0, 20), [mixed(*each) for each in zip(starts, shares, strict=True)]
    assert set().union(*parts) == whole and len(whole) == 20 * repeats


def test_each_group_of_videos_has_a_draw_of_its_own() -> None:
    """Else the share of the dominant label would be one number for an update."""
    x, label = torch.zeros(64, 2, 8, 8, 3), torch.arange(64)
    _, classes = Mixing(0.8, 0.0, 64)(x, label, repeats=1, draw=rng)
    dominant = classes.max(1).values.unflatten(0, (-1, GROUP))
    assert (dominant == dominant[:, :1]).all() and len(dominant[:, 0].unique()) == 64 // GROUP


def test_without_mixing_labels_are_whole() -> None:
    x, label = torch.zeros(3, 2, 8, 8, 3), torch.tensor([2, 0, 2])
    ours, shares = Mixing(0, 0, 3)(x, label, repeats=1, draw=lambda group: rng())
    assert ours is x and torch.equal(shares, F.one_hot(label, 3).float())
    torch.testing.assert_close(smoothed(shares, 0.3)[:1], mixup_target(label[:1], 3, smoothing=0.3))
