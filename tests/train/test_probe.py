"""The probe: what its numbers are of, against scikit-learn's, its splits, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from schemas.config import Clip, Experiment, Probe
from schemas.errors import UserError
from schemas.stage import read_record, write_record
from schemas.tables import CLIP_INDEX, MANIFEST, read_table, video_key, write_table
from schemas.workspace import Workspace
from tests.train.data.test_views import spoil
from tests.train.evaluation.test_linear import blobs
from train.data.splits import labelled_split
from train.data.videos import open_videos
from train.evaluation.frozen_encoder import Missing
from train.evaluation.linear import standardise
from train.evaluation.results import read_result
from train.evaluation.video_features import Features
from train.pretrain import run_pretrain
from train.probe import Task, run_probe

Small = Callable[..., Experiment]
CPU = torch.device("cpu")
OPTIONS = Probe.model_validate({"linear": {"epochs": 60, "base_lr": [60.0], "batch_size": 64, "warmup_epochs": 3}})
NOTHING = Missing(np.zeros(0, np.int64), {}, [])


class Labelled:
    """Videos of which only labels and keys are asked."""

    def __init__(self, labels: Any) -> None:
        self.labels = np.asarray(labels, np.int64)

    def column(self, name: str) -> Any:
        assert name == "label"
        return self.labels

    def all_keys(self) -> list[str]:
        return [f"{row:04d}" for row in range(len(self.labels))]


def task(x: Any, labels: Any, train: Any, missing: Missing = NOTHING, read: Any = None) -> Task:
    videos: Any = Labelled(labels)
    read_S = np.ones(len(labels), bool) if read is None else read
    return Task.of(videos, train, Features(x.astype(np.float32), read_S), missing)


def test_the_numbers_are_scikit_learns() -> None:
    """Labels with gaps: 10, 20, ... as a split of a larger set has."""
    x, y = blobs(500, 8, 7, seed=1)
    train = np.arange(500) % 3 != 0
    found, _ = task(x, 10 * y, train).metrics(OPTIONS, CPU)
    z = standardise(x, train)
    regression = LogisticRegression(C=1 / (OPTIONS.l2 * train.sum()), max_iter=10_000).fit(z[train], y[train])
    scores = regression.predict_proba(z[~train])
    assert found["top1"] == pytest.approx(regression.score(z[~train], y[~train]), abs=0.007)
    assert found["top5"] == pytest.approx(top_k_accuracy_score(y[~train], scores, k=5), abs=0.007)
    assert found["mean_class"] == pytest.approx(balanced_accuracy_score(y[~train], scores.argmax(1)), abs=0.01)
    neighbours = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    scores = neighbours.fit(x[train], y[train]).predict_proba(x[~train])
    assert found["top1_knn"] == pytest.approx((scores.argmax(1) == y[~train]).mean())
    assert found["mean_class_knn"] == pytest.approx(balanced_accuracy_score(y[~train], scores.argmax(1)))
    assert found["top5_knn"] == pytest.approx(top_k_accuracy_score(y[~train], scores, k=5), abs=0.02)  # votes of 0 tie
    assert found["top1_sgd"] == pytest.approx(found["top1"], abs=0.06) and found["top1_sgd"] > 0.6


def test_a_class_without_training_videos_counts_as_wrong() -> None:
    """All the more where there are fewer than five classes to choose from."""
    x, y = blobs(60, 4, 2, seed=0)
    train, y[50:] = np.arange(60) < 40, 7
    asked = task(x, y, train)
    found, _ = asked.metrics(OPTIONS, CPU)
    for suffix in ("", "_sgd", "_knn"):
        assert found[f"top5{suffix}"] == 0.5 and found[f"top1{suffix}"] <= 0.5
        assert found[f"mean_class{suffix}"] <= 2 / 3
    assert asked.unseen == [7] and asked.classes == 3
    assert "no training video of the classes [7]" in asked.warnings(OPTIONS)[0]
    only_new, _ = task(x, y, np.arange(60) < 50).metrics(OPTIONS, CPU)
    assert {only_new[f"top5{suffix}"] for suffix in ("", "_sgd", "_knn")} == {0.0}


def test_videos_that_were_not_read_are_neither_learnt_nor_asked() -> None:
    x, y = blobs(90, 4, 3, seed=5)
    train, read = np.arange(90) < 60, np.arange(90) % 7 != 0
    noise = np.where(read[:, None], x, 1e6)
    without, _ = task(x[read], y[read], train[read]).metrics(OPTIONS, CPU)
    assert task(noise, y, train, read=read).metrics(OPTIONS, CPU)[0].keys() == without.keys()
    left_out, _ = task(noise, y, train, read=read).metrics(OPTIONS, CPU)
    assert left_out["top1"] == without["top1"] and left_out["top1_knn"] == without["top1_knn"]
    wrong = y[~train & ~read]
    counted, _ = task(noise, y, train, Missing(wrong, {}, []), read).metrics(OPTIONS, CPU)
    asked = int((~train & read).sum())
    assert counted["top1"] == pytest.approx(without["top1"] * asked / (asked + len(wrong)))


def test_few_videos_are_enough() -> None:
    """Fewer than k neighbours; one class of training videos."""
    x, y = blobs(12, 4, 2, seed=0)
    asked = task(x, y, np.arange(12) < 8)
    assert "k-NN takes all 8 training videos" in asked.warnings(OPTIONS)[0]
    assert 0 <= asked.metrics(OPTIONS, CPU)[0]["top1_knn"] <= 1
    one = task(x, np.arange(12) // 9, np.arange(12) < 6)
    assert one.metrics(OPTIONS, CPU)[0]["top1"] == one.metrics(OPTIONS, CPU)[0]["top1_sgd"] == 0.5 == one.majority


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


@pytest.mark.medium
def test_a_probe_of_a_run(workspace: Workspace, small: Small, capfd: pytest.CaptureFixture[str]) -> None:
    experiment = small()
    with pytest.raises(UserError, match="run `tgmae pretrain"):
        run_probe(experiment)
    run_pretrain(experiment)
    record = run_probe(experiment)
    run = workspace.run(experiment.name)
    result = json.loads((run / "probe" / "probe.json").read_text())
    assert record == read_record(run / "probe") and record.counts["train"] == 10 and record.counts["test"] == 4
    kept = read_result(run / "probe" / "result.json")
    assert kept.kind == "probe" and kept.dataset == "clips-digest" and kept.counts == record.counts
    assert kept.checkpoint.sha256 == record.inputs["pretrain"]
    names = [f"{name}{how}{of}" for name in ("top1", "top5", "mean_class") for how in ("", "_sgd", "_knn")
             for of in ("", "_untrained")]  # fmt: skip
    assert set(kept.metrics) == {*names, "chance", "majority"} and all(0 <= v <= 1 for v in kept.metrics.values())
    assert all(result[name] == value for name, value in kept.metrics.items()) and result["chance"] == 0.5
    assert kept.views == {"sampling": "dense", "temporal": 2, "spatial": 1, "layer": "norm"}
    said = capfd.readouterr().err
    assert "k-NN takes all 10 training videos" in said and "held-out training videos" in said
    assert run_probe(experiment) == record


@pytest.mark.medium
def test_features_are_computed_once(workspace: Workspace, small: Small) -> None:
    run_pretrain(small())
    run_probe(small())
    features = workspace.run("pretrain") / "features"
    stamps = {path: path.stat().st_mtime_ns for path in features.iterdir()}
    assert {path.name for path in stamps} == {f"{w}-dense-2x1-norm.safetensors" for w in ("trained", "untrained")}
    run_probe(small(probe={"l2": 0.1, "neighbours": 2}))  # another classifier, the same features
    assert {path: path.stat().st_mtime_ns for path in features.iterdir()} == stamps
    before = json.loads((workspace.run("pretrain") / "probe" / "probe.json").read_text())
    run_probe(small(probe={"layer": "block", "views": 1, "untrained": False}))
    assert len(list(features.iterdir())) == 3 and {path: path.stat().st_mtime_ns for path in stamps} == stamps
    after = json.loads((workspace.run("pretrain") / "probe" / "probe.json").read_text())
    assert before["top1_untrained"] is not None and after["top1_untrained"] is None
    with pytest.raises(UserError, match="trained with another clip.stride"):
        run_probe(small(clip={"stride": 3}, probe={"views": 3}))
    run, record = workspace.run("pretrain"), read_record(workspace.run("pretrain"))
    assert record is not None and record.config["clip"].pop("scales") == list(Clip().scales)
    write_record(run, record)  # as of a release that had no such key
    run_probe(small(probe={"views": 3}))
    with pytest.raises(UserError, match="trained with another clip.scales"):
        run_probe(small(clip={"scales": [1.0]}, probe={"views": 4}))


@pytest.mark.medium
def test_another_encoder_is_judged_where_stages_have_no_pretraining(workspace: Workspace, small: Small) -> None:
    """The same weights as model.init of another run: the same numbers, and its own folder and identity."""
    run_pretrain(small())
    weights = workspace.run("pretrain")
    first = run_probe(small(probe={"untrained": False}))
    transfer = {"stages": ["probe"], "model": {"init": str(weights)}, "name": "transfer"}
    second = run_probe(small(**transfer, probe={"untrained": False}))
    results = [read_result(workspace.run(name) / "probe" / "result.json") for name in ("pretrain", "transfer")]
    assert results[0].metrics == results[1].metrics and results[1].checkpoint.source == str(weights)
    assert second.inputs["init"] == first.inputs["pretrain"] == results[1].checkpoint.sha256
    with pytest.raises(UserError, match="set model.patch = 8"):
        run_probe(small(**{**transfer, "model": {"init": str(weights), "patch": 16}}))


def test_missing_videos_are_wrong_or_left_out_and_always_said(workspace: Workspace, small: Small) -> None:
    """A test video and a training video are damaged, one test video was never sharded."""
    run_pretrain(small())
    relabel(workspace, lambda n, row: {"split": "test" if n % 4 >= 2 else "train"})
    workspace.manifest.mkdir()
    lost = {"key": video_key("lost.mp4"), "video_id": "lost.mp4", "path": "lost.mp4", "label": 1, "split": "test",
            "frames": 9, "fps": 12.0, "width": 9, "height": 9, "rotation": 0, "codec": "h264", "duration": 1.0,
            "bytes": 9}  # fmt: skip
    write_table(workspace.manifest / "manifest.parquet", [lost], MANIFEST)
    for row in (5, 6):
        spoil(workspace, row=row)
    few = {"untrained": False, "linear": {"base_lr": [1.0]}}
    record = run_probe(small(probe=few))
    result = read_result(workspace.run("pretrain") / "probe" / "result.json")
    assert (record.counts["train"], record.counts["test"]) == (8, 7)
    assert (record.counts["unread"], record.counts["absent"], record.counts["unread_training"]) == (1, 1, 1)
    assert result.warnings[:2] == [
        "2 of 7 test videos count as wrong (probe.missing): 1 could not be read, 1 are not in the shards",
        "1 of 8 training videos could not be read and are left out",
    ]
    run_probe(small(probe={**few, "missing": "exclude"}))
    left_out = read_result(workspace.run("pretrain") / "probe" / "result.json")
    assert "2 of 7 test videos are left out" in left_out.warnings[0]
    assert left_out.metrics["top1"] * 5 == pytest.approx(result.metrics["top1"] * 7)
    for row in range(14):
        if row % 4 >= 2:
            spoil(workspace, row=row)
    with pytest.raises(UserError, match="none of the 6 test videos could be read"):
        run_probe(small(probe={**few, "views": 1}))


def test_the_command_line(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from schemas.toml import dump
    from train.__main__ import main

    (tmp_path / "config.toml").write_text(dump(small()))
    for command in ("probe", "retrieve"):
        assert main([command, str(tmp_path / "config.toml")]) == 2
        assert "run `tgmae pretrain" in capsys.readouterr().err
