"""The probe: its classifier against scikit-learn's, its splits, and its features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import read_record
from schemas.tables import CLIP_INDEX, read_table, write_table
from schemas.workspace import Workspace
from train.features import ViewDataset, extract
from train.objective import build_model
from train.pretrain import run_pretrain
from train.probe import accuracy, fit_logistic, labelled_split, run_probe, standardise
from train.videos import open_videos

Small = Callable[..., Experiment]


def blobs(samples: int, width: int, classes: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    centres = rng.normal(size=(classes, width))
    return centres[labels] + rng.normal(size=(samples, width)), labels.astype(np.int64)


@pytest.mark.parametrize(
    ("samples", "width", "classes", "l2"), [(200, 5, 3, 1e-2), (60, 40, 4, 1e-3), (300, 8, 2, 0.5)]
)
def test_the_classifier_is_scikit_learns(samples: int, width: int, classes: int, l2: float) -> None:
    x, y = blobs(samples, width, classes, seed=samples)
    weight, bias = fit_logistic(x, y, l2)
    theirs = LogisticRegression(C=1 / (l2 * samples), tol=1e-10, max_iter=10_000).fit(x, y)
    logits = x @ weight.T + bias
    ours = np.exp(logits - logits.max(1, keepdims=True))
    ours /= ours.sum(1, keepdims=True)
    if classes > 2:  # of two classes scikit-learn shrinks one vector, not two opposite ones
        np.testing.assert_allclose(ours, theirs.predict_proba(x), atol=2e-4)
        np.testing.assert_allclose(weight, theirs.coef_, atol=2e-3)
    else:
        theirs = LogisticRegression(C=2 / (l2 * samples), tol=1e-10, max_iter=10_000).fit(x, y)
        np.testing.assert_allclose(ours, theirs.predict_proba(x), atol=2e-4)


def test_accuracy_on_what_was_held_out() -> None:
    x, y = blobs(400, 10, 3, seed=1)
    train = np.arange(400) % 4 != 0
    top1 = accuracy(x.astype(np.float32), y, train, 1e-3)
    z = standardise(x, train)
    theirs = LogisticRegression(C=1 / (1e-3 * train.sum()), max_iter=10_000).fit(z[train], y[train])
    assert top1 == pytest.approx(theirs.score(z[~train], y[~train]), abs=0.011) and top1 > 0.8


def test_standardising_uses_training_rows_and_bears_constants() -> None:
    x = np.array([[1.0, 5, 1], [3, 5, 2], [100, 7, 3]])
    z = standardise(x, np.array([True, True, False]))
    np.testing.assert_allclose(z[:2, 0], [-1, 1])
    assert (z[:, 1] == 0).all() and np.isfinite(z).all()


def test_a_class_without_training_videos_counts_as_wrong() -> None:
    x, y = blobs(40, 4, 2, seed=0)
    y[30:] = 7
    assert accuracy(x.astype(np.float32), y, np.arange(40) < 30, 1e-3) == 0


def relabel(workspace: Workspace, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> None:
    path = workspace.clips / "index.parquet"
    rows = read_table(path, CLIP_INDEX).to_pylist()
    write_table(path, [{**row, **change(number, row)} for number, row in enumerate(rows)], CLIP_INDEX)


def split(workspace: Workspace) -> tuple[list[str], np.ndarray[Any, Any]]:
    videos, train = labelled_split(open_videos(workspace), "train", "test", 0.25)
    return videos.all_keys(), train


def test_without_splits_each_class_gives_its_share_by_key(workspace: Workspace) -> None:
    keys, train = split(workspace)
    labels = open_videos(workspace).column("label")
    assert len(keys) == 14 and [int((~train)[labels == label].sum()) for label in (0, 1)] == [2, 2]
    for label in (0, 1):
        rows = [(key, learnt) for key, learnt, of in zip(keys, train, labels, strict=True) if of == label]
        assert [learnt for _, learnt in sorted(rows)] == [False] * 2 + [True] * 5


def test_named_splits_are_used(workspace: Workspace) -> None:
    relabel(workspace, lambda n, row: {"split": ("train", "test", "val")[n % 3]})
    keys, train = split(workspace)
    assert len(keys) == 10 and train.sum() == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, row: {"label": None}, "none of the 14 videos has a label"),
        (lambda n, row: {"label": 3}, "all 14 labelled videos are of one class"),
        (lambda n, row: {"split": "train"}, "no labelled video of the split 'test'.*'train': 14"),
        (lambda n, row: {"split": "val"}, "no labelled video of the split 'train'.*'val': 14.*probe.train_split"),
        (lambda n, row: {"label": n}, "test_share 0.25 of so few videos"),
    ],
)
def test_what_cannot_be_probed(workspace: Workspace, change: Any, message: str) -> None:
    relabel(workspace, change)
    with pytest.raises(UserError, match=message):
        split(workspace)


def test_features_do_not_depend_on_batches_or_workers(workspace: Workspace, small: Small) -> None:
    experiment, videos = small(), open_videos(workspace)
    encoder = build_model(experiment).encoder
    options: dict[str, Any] = {"views": 2, "device": torch.device("cpu")}
    one = extract(encoder, videos, experiment.clip, batch_size=1, workers=0, **options)
    many = extract(encoder, videos, experiment.clip, batch_size=5, workers=1, **options)
    assert one.shape == (14, 96) and one.dtype == np.float32
    np.testing.assert_allclose(one, many, atol=1e-5)
    views = torch.stack([ViewDataset(videos, experiment.clip, 2).sample(row) for row in range(14)])
    with torch.inference_mode():
        by_hand = (encoder(views[:, 0]).mean(1) + encoder(views[:, 1]).mean(1)) / 2
    np.testing.assert_allclose(one, by_hand.numpy(), atol=1e-5)


def test_a_probe_of_a_run(workspace: Workspace, small: Small) -> None:
    experiment = small()
    with pytest.raises(UserError, match="run `tgmae pretrain"):
        run_probe(experiment)
    run_pretrain(experiment)
    record = run_probe(experiment)
    folder = workspace.run(experiment.name) / "probe"
    result = json.loads((folder / "probe.json").read_text())
    assert record == read_record(folder) and record.counts == {"train": 10, "test": 4, "classes": 2}
    assert result["chance"] == 0.5 and 0 <= result["top1"] <= 1 and 0 <= result["top1_untrained"] <= 1
    assert run_probe(experiment) == record
    cached = (folder / "features-pretrained.safetensors").stat().st_mtime_ns
    run_probe(small(probe={"l2": 0.1}))  # another classifier, the same features
    assert (folder / "features-pretrained.safetensors").stat().st_mtime_ns == cached
    run_probe(small(probe={"views": 1}))
    assert (folder / "features-pretrained.safetensors").stat().st_mtime_ns != cached
    with pytest.raises(UserError, match="trained with another clip.stride"):
        run_probe(small(clip={"stride": 3}, probe={"views": 3}))


def test_the_command_line(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from schemas.toml import dump
    from train.__main__ import main

    (tmp_path / "config.toml").write_text(dump(small()))
    assert main(["probe", str(tmp_path / "config.toml")]) == 2
    assert "run `tgmae pretrain" in capsys.readouterr().err
