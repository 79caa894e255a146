"""Views against a loop that follows VideoMAE's arithmetic to the letter (engine_for_finetuning.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from schemas.config import Experiment
from schemas.workspace import Workspace
from train.data.classes import Classes, read_classes
from train.data.reading import decode, read_clip
from train.data.videos import open_videos
from train.data.views import ViewsDataset, dense_views, segment_views, spatial_views
from train.engine.distributed import Ranks
from train.evaluation.predictions import Predictions, predict
from train.models.objective import model_config
from train.models.videomae import Classifier

Small = Callable[..., Experiment]
CPU = torch.device("cpu")


@given(st.integers(1, 400), st.integers(1, 20), st.integers(1, 8), st.integers(2, 10))
def test_dense_views_are_videomaes(total: int, frames: int, stride: int, views: int) -> None:
    every = list(range(0, total, stride))
    while len(every) < frames:
        every.append(every[-1])
    step = max(1.0 * (len(every) - frames) / (views - 1), 0)
    literal = [every[int(view * step) : int(view * step) + frames] for view in range(views)]
    assert dense_views(total, frames=frames, stride=stride, views=views).tolist() == literal


@given(st.integers(1, 400), st.integers(1, 20))
def test_segment_views_are_videomaes(total: int, frames: int) -> None:
    tick = total / float(frames)
    both = sorted([int(tick / 2.0 + tick * x) for x in range(frames)] + [int(tick * x) for x in range(frames)])
    assert segment_views(total, frames=frames, views=2).tolist() == [both[0::2], both[1::2]]


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 8), st.integers(1, 10))
def test_frames_of_views_are_in_the_video_and_in_order(total: int, frames: int, stride: int, views: int) -> None:
    for found in (
        dense_views(total, frames=frames, stride=stride, views=views),
        segment_views(total, frames=frames, views=views),
    ):
        assert found.shape == (views, frames)
        assert found.min() >= 0 and found.max() < total
        assert (np.diff(found, axis=1) >= 0).all() and (np.diff(found, axis=0) >= 0).all()


def test_a_single_view_is_the_middle_one() -> None:
    assert dense_views(40, frames=4, stride=2, views=1).tolist() == [[16, 18, 20, 22]]
    assert segment_views(40, frames=4, views=1).tolist() == [[5, 15, 25, 35]]


@given(st.integers(8, 40), st.integers(8, 40), st.integers(4, 16), st.integers(2, 5))
def test_places_are_videomaes(height: int, width: int, size: int, views: int) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    if width < height:
        rows, columns = int(size * height / width), size
    else:
        rows, columns = size, int(size * width / height)
    planes = torch.from_numpy(clip).permute(0, 3, 1, 2)
    if (rows, columns) != (height, width):
        planes = F.interpolate(planes, (rows, columns), mode="bilinear", antialias=True)
    scaled = planes.permute(0, 2, 3, 1)
    step = 1.0 * (max(rows, columns) - size) / (views - 1)
    for view, crop in enumerate(spatial_views(clip, size, views)):
        start = int(view * step)
        literal = scaled[:, start : start + size] if rows >= columns else scaled[:, :, start : start + size]
        assert torch.equal(crop, literal[:, :size, :size])


def test_a_single_place_is_the_centre() -> None:
    clip = np.arange(10, dtype=np.uint8)[None, None, :, None].repeat(4, 1).repeat(3, 3)
    assert spatial_views(clip, 4, 1)[0][0, 0, :, 0].tolist() == [3, 4, 5, 6]


def setting(workspace: Workspace, small: Small, **finetune: Any) -> tuple[torch.nn.Module, Classes, ViewsDataset]:
    experiment, videos = small(finetune=finetune), open_videos(workspace)
    classes = read_classes(workspace, videos, "label")
    torch.manual_seed(0)
    model = Classifier(model_config(experiment), classes.outputs)
    with torch.no_grad():
        model.head.weight.mul_(1000)  # untrained, it would say the same of all
    return model, classes, ViewsDataset(videos, experiment)


def by_hand(model: torch.nn.Module, dataset: ViewsDataset) -> np.ndarray[Any, Any]:
    """One view after the other: its frames, its crop, its softmax; then their mean."""
    options, clip = dataset.experiment.finetune, dataset.experiment.clip
    rows = []
    for row in range(len(dataset.videos)):
        meta, mp4 = read_clip(dataset.videos.clip_place(row))
        total = torch.zeros(2)
        for view in range(options.temporal_views):
            if options.sampling == "dense":
                numbers = dense_views(
                    meta.frames, frames=clip.frames, stride=clip.stride, views=options.temporal_views
                )[view]
            else:
                numbers = segment_views(meta.frames, frames=clip.frames, views=options.temporal_views)[view]
            for crop in spatial_views(decode(mp4, numbers, meta, "here"), clip.size, options.spatial_views):
                with torch.inference_mode():
                    total += model.eval()(crop[None])[0].softmax(0)
        rows.append(total / (options.temporal_views * options.spatial_views))
    return torch.stack(rows).numpy()


@pytest.mark.medium
@pytest.mark.parametrize(
    "views",
    [
        {"sampling": "dense", "temporal_views": 5, "spatial_views": 3},
        {"sampling": "segments", "temporal_views": 2, "spatial_views": 3},
        {"sampling": "dense", "temporal_views": 1, "spatial_views": 1},
        {"sampling": "dense", "temporal_views": 7, "spatial_views": 3},  # more than are computed at once
    ],
)
def test_predictions_are_means_of_the_views_softmaxes(
    workspace: Workspace, small: Small, views: dict[str, Any]
) -> None:
    model, classes, dataset = setting(workspace, small, **views)
    found = predict(model, classes, dataset, Ranks(0, 1, CPU))
    literal = by_hand(model, dataset)
    np.testing.assert_allclose(found.probability_SP, literal, atol=1e-5)
    np.testing.assert_allclose(found.probability_SP.sum(1), 1, atol=1e-5)
    assert found.read_S.all() and np.ptp(literal[:, 0]) > 1e-3
    again = predict(model, classes, dataset, Ranks(0, 1, CPU))
    np.testing.assert_array_equal(found.probability_SP, again.probability_SP)


class Part(Ranks):
    """One of several processes whose sums are taken by the test."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values


@pytest.mark.parametrize("world", [2, 3, 5, 40])
def test_any_number_of_processes_predicts_the_same(workspace: Workspace, small: Small, world: int) -> None:
    """Bit for bit, and each video once: 14 videos divide by none of these numbers but 2."""
    model, classes, dataset = setting(workspace, small, temporal_views=1, spatial_views=3)
    whole = predict(model, classes, dataset, Ranks(0, 1, CPU))
    parts: list[Predictions] = [predict(model, classes, dataset, Part(rank, world, CPU)) for rank in range(world)]
    np.testing.assert_array_equal(sum(part.read_S.astype(int) for part in parts), np.ones(14, int))
    total = np.sum([part.probability_SP for part in parts], axis=0)
    np.testing.assert_array_equal(total, whole.probability_SP)


def test_a_video_that_cannot_be_read_is_named_and_left_out(
    workspace: Workspace, small: Small, capfd: pytest.CaptureFixture[str]
) -> None:
    model, classes, dataset = setting(workspace, small, temporal_views=2, spatial_views=1)
    before = predict(model, classes, dataset, Ranks(0, 1, CPU))
    spoil(workspace, row=6)
    after = predict(model, classes, dataset, Ranks(0, 1, CPU))
    assert np.flatnonzero(~after.read_S).tolist() == [6] and (after.probability_SP[6] == 0).all()
    others = np.arange(14) != 6
    np.testing.assert_allclose(after.probability_SP[others], before.probability_SP[others], atol=1e-5)
    said = capfd.readouterr().err
    assert dataset.videos.strings("video_id")[6] in said and "cannot be decoded" in said


def spoil(workspace: Workspace, row: int) -> Path:
    """Noise in place of a video's bytes; its description stays."""
    place = open_videos(workspace).clip_place(row)
    _, mp4 = read_clip(place)
    data = place.path.read_bytes()
    start = data.index(mp4, place.offset)
    place.path.write_bytes(data[:start] + b"x" * len(mp4) + data[start + len(mp4) :])
    return place.path
