"""Frozen features: what they are of, and that they are computed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from schemas.config import Experiment, Probe
from schemas.errors import UserError
from schemas.workspace import Workspace
from tests.train.data.test_views import spoil
from train.data import reading
from train.data.reading import read_clip
from train.data.videos import Videos, open_videos
from train.data.views import read_views
from train.evaluation.video_features import Features, ViewDataset, extract, kept_features
from train.models.objective import build_model

Small = Callable[..., Experiment]
CPU = torch.device("cpu")


def options(**changes: Any) -> Probe:
    return Probe.model_validate({"views": 2, "batch_size": 4, **changes})


def views_of(videos: Videos, experiment: Experiment, chosen: Probe) -> list[Tensor]:
    return [
        read_views(videos.clip_place(row), experiment.clip, sampling=chosen.sampling, temporal=chosen.views,
                   spatial=chosen.spatial_views)
        for row in range(len(videos))
    ]  # fmt: skip


@pytest.mark.parametrize("chosen", [options(), options(sampling="segments", views=1, spatial_views=3)])
def test_features_are_mean_tokens_and_do_not_depend_on_batches_or_workers(
    workspace: Workspace, small: Small, chosen: Probe
) -> None:
    experiment, videos = small(), open_videos(workspace)
    encoder = build_model(experiment).encoder
    one, many = (
        extract(encoder, ViewDataset(videos, experiment.clip, chosen.model_copy(update={"batch_size": size})),
                workers=workers, device=CPU)
        for size, workers in ((1, 0), (11, 1))
    )  # fmt: skip
    assert one.features_SD.shape == (14, 96) and one.features_SD.dtype == np.float32 and one.read_S.all()
    np.testing.assert_allclose(one.features_SD, many.features_SD, atol=1e-5)
    with torch.inference_mode():
        by_hand = [
            np.mean([encoder(view[None]).mean(1)[0].numpy() for view in views], axis=0)
            for views in views_of(videos, experiment, chosen)
        ]
    np.testing.assert_allclose(one.features_SD, by_hand, atol=1e-5)


def test_what_cannot_be_read_is_named_and_left_out(
    workspace: Workspace, small: Small, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment, videos = small(), open_videos(workspace)
    encoder = build_model(experiment).encoder
    whole = extract(encoder, ViewDataset(videos, experiment.clip, options()), workers=0, device=CPU)
    spoil(workspace, row=6)
    rest = extract(encoder, ViewDataset(videos, experiment.clip, options()), workers=0, device=CPU)
    assert np.flatnonzero(~rest.read_S).tolist() == [6] and not rest.features_SD[6].any()
    np.testing.assert_allclose(np.delete(rest.features_SD, 6, 0), np.delete(whole.features_SD, 6, 0), atol=1e-5)
    assert read_clip(videos.clip_place(6))[0].video_id in capfd.readouterr().err


def test_broken_weights_are_told(workspace: Workspace, small: Small) -> None:
    encoder = build_model(small()).encoder
    with torch.no_grad():
        encoder.blocks[0].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="NaN or infinite"):
        extract(encoder, ViewDataset(open_videos(workspace), small().clip, options()), workers=0, device=CPU)


class Counting:
    """Features that say which video they are of; some videos cannot be read."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.unreadable: set[str] = set()

    def __call__(self, videos: Videos) -> Features:
        keys = videos.all_keys()
        self.asked.append(keys)
        read_S = np.asarray([key not in self.unreadable for key in keys])
        found = np.asarray([[int(key[:6], 16), 1] for key in keys], np.float32)
        return Features(np.where(read_S[:, None], found, 0), read_S)


def test_features_are_kept_by_video(workspace: Workspace, tmp_path: Path) -> None:
    """In any order and any part; what was unreadable is tried again; other weights start again."""
    videos, compute, path = open_videos(workspace), Counting(), tmp_path / "features" / "kept.safetensors"
    keys = videos.all_keys()
    compute.unreadable = {keys[3]}
    first = kept_features(path, "a", videos.where(np.arange(14) < 9), compute, part=4)
    assert [len(asked) for asked in compute.asked] == [4, 4, 1] and np.flatnonzero(~first.read_S).tolist() == [3]
    everything = kept_features(path, "a", videos, compute)
    assert compute.asked[3:] == [[keys[3], *keys[9:]]]
    compute.unreadable = set()
    everything = kept_features(path, "a", videos, compute)
    assert compute.asked[4:] == [[keys[3]]] and everything.read_S.all()
    assert everything.features_SD[:, 0].tolist() == [np.float32(int(key[:6], 16)) for key in keys]
    some = np.arange(14) % 3 == 1
    part = kept_features(path, "a", videos.where(some), compute)
    assert np.array_equal(part.features_SD, everything.features_SD[some]) and len(compute.asked) == 5
    kept_features(path, "b", videos, compute)
    assert compute.asked[5:] == [keys]


def test_a_stop_keeps_the_parts_that_are_done(workspace: Workspace, tmp_path: Path) -> None:
    videos, compute, path = open_videos(workspace), Counting(), tmp_path / "kept.safetensors"

    def stopped(some: Videos) -> Features:
        if len(compute.asked) == 2:
            raise KeyboardInterrupt
        return compute(some)

    with pytest.raises(KeyboardInterrupt):
        kept_features(path, "a", videos, stopped, part=5)
    kept_features(path, "a", videos, compute, part=5)
    assert [len(asked) for asked in compute.asked] == [5, 5, 4]


def test_clips_are_decoded_by_what_is_asked_for(
    workspace: Workspace, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    by = reading.decoder
    monkeypatch.setattr(reading, "decoder", lambda name: asked.append(name) or by(name))
    dataset = ViewDataset(open_videos(workspace), small().clip, options(), "pyav")
    assert isinstance(dataset[0], Tensor) and asked == ["pyav"]
