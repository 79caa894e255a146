"""Retrieval against loops over all pairs; groups, captions, and what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.stats import hypergeom

from schemas.config import Experiment, Retrieve
from schemas.errors import UserError
from schemas.shards import guide_meta, npy_array
from schemas.stage import read_record
from schemas.tables import CLIP_INDEX, read_table, write_table
from schemas.workspace import Workspace
from tests.train.data.test_views import spoil
from train.data.reading import read_members
from train.data.sampling import digest64
from train.data.splits import groups
from train.data.videos import Videos, open_videos
from train.evaluation.results import Result, read_result
from train.evaluation.text_retrieval import chance, load_head
from train.evaluation.video_features import Features
from train.pretrain import run_pretrain
from train.retrieve import Search, run_retrieve

Small = Callable[..., Experiment]
Array = np.ndarray[Any, Any]
CPU = torch.device("cpu")
UCF = "(v_.+_g[0-9]+)_c"


class Labelled:
    """Videos of which only labels and names are asked."""

    def __init__(self, labels: Array) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def column(self, name: str) -> Array:
        return {"label": self.labels}[name]

    def strings(self, name: str) -> list[str]:
        return [f"{row}.mp4" for row in range(len(self))]

    def all_keys(self) -> list[str]:
        return self.strings("key")


def recall_by_loop(x: Array, labels: Array, queries: Array, gallery: Array, group: Array, k: int, wrong: int) -> float:
    hits = 0
    for q in queries:
        others = [g for g in gallery if g != q and group[g] != group[q]]
        order = sorted(others, key=lambda g: (-round(float(x[q] @ x[g]), 6), g))
        hits += any(labels[g] == labels[q] for g in order[:k])
    return hits / (len(queries) + wrong)


@pytest.mark.medium
@given(
    seed=st.integers(0, 10**6), size=st.integers(4, 30), classes=st.integers(1, 6), different=st.integers(1, 12),
    sources=st.integers(1, 12), wrong=st.integers(0, 3), chunk=st.integers(1, 40),
)  # fmt: skip
def test_recall_is_that_of_a_loop_over_all_pairs(
    seed: int, size: int, classes: int, different: int, sources: int, wrong: int, chunk: int
) -> None:
    """Both galleries, with the query's group and without; equal features; unread videos of either split."""
    rng = np.random.default_rng(seed)
    some = rng.normal(size=(different, 4)).astype(np.float32)
    x = some[rng.integers(different, size=size)]
    labels, group = rng.integers(classes, size=size), rng.integers(sources, size=size)
    train, read = np.arange(size) % 3 == 0, rng.random(size) < 0.8
    read[:2] = True
    videos: Any = Labelled(labels)
    search = Search(videos, train, group, chunk=chunk, device=CPU)
    metrics, found = search(Features(x, read), wrong)
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    queries = np.flatnonzero(~train & read)
    for gallery, rows in (("", queries), ("train_", np.flatnonzero(train & read))):
        for name, apart in (("", np.arange(size)), ("other_groups_", group)):
            for k in (1, 5, 10):
                expected = recall_by_loop(unit, labels, queries, rows, apart, k, wrong)
                assert metrics[f"{name}{gallery}r@{k}"] == pytest.approx(expected)
    assert [each.gallery for each in found] == ["test", "train"]
    assert set(Search(videos, train, None, chunk=chunk, device=CPU)(Features(x, read), wrong)[0]) == {
        f"{gallery}r@{k}" for gallery in ("", "train_") for k in (1, 5, 10)
    }


def test_a_group_is_what_is_captured() -> None:
    names = ["Yo/v_Yo_g01_c01.avi", "Yo/v_Yo_g01_c02.avi", "Yo/v_Yo_g02_c01.avi", "Hi/v_Hi_g01_c01.avi", "odd", "odder"]
    assert groups(names, UCF).tolist() == [0, 0, 1, 2, 3, 4]
    assert groups(names, "_g[0-9]+").tolist() == [0, 0, 1, 0, 2, 3]  # without parentheses, the whole match
    assert groups(names, r"(Yo|Hi).*_(c[0-9]+)").tolist() == [0, 1, 0, 2, 3, 4]  # several
    with pytest.raises(UserError, match="retrieve.group = 'nothing' fits no video_id, such as 'Yo/v_Yo_g01_c01.avi'"):
        groups(names, "nothing")
    with pytest.raises(ValueError, match="is not a regular expression"):
        Retrieve(group="(")


def test_queries_that_cannot_have_a_hit_are_told() -> None:
    labels, train = np.array([0, 1, 1, 2, 2, 3]), np.array([False, False, True, False, False, True])
    videos: Any = Labelled(labels)
    search = Search(videos, train, None, chunk=8, device=CPU)
    _, found = search(Features(np.eye(6, dtype=np.float32), np.ones(6, bool)), 0)
    assert search.warnings(found[0])[0].startswith("no other test video of the classes [0, 1]: their 2 queries")
    assert search.warnings(found[1])[0].startswith("no training video of the classes [0, 2]: their 3 queries")
    assert search.warnings(found[0])[1] == "there are only 4 test videos to retrieve from: R@10 says little"


def relabel(workspace: Workspace, change: Callable[[int], dict[str, Any]]) -> None:
    path = workspace.clips / "index.parquet"
    rows = read_table(path, CLIP_INDEX).to_pylist()
    write_table(path, [{**row, **change(number)} for number, row in enumerate(rows)], CLIP_INDEX)


def result(workspace: Workspace, name: str = "pretrain") -> Result:
    return read_result(workspace.run(name) / "retrieve" / "result.json")


def test_retrieval_by_a_run(workspace: Workspace, small: Small, capfd: pytest.CaptureFixture[str]) -> None:
    experiment = small(retrieve={"views": 1})
    run_pretrain(experiment)
    record = run_retrieve(experiment)
    run, found = workspace.run("pretrain"), result(workspace)
    assert record == read_record(run / "retrieve") == run_retrieve(experiment)
    assert found.kind == "retrieve" and found.checkpoint.sha256 == record.inputs["pretrain"]
    assert set(found.metrics) == {f"{gallery}r@{k}{of}" for gallery in ("", "train_") for k in (1, 5, 10)
                                  for of in ("", "_untrained")}  # fmt: skip
    assert (found.counts["train"], found.counts["test"], found.counts["classes"]) == (10, 4, 2)
    rows = pq.read_table(run / "retrieve" / "neighbours.parquet").to_pylist()
    assert [row["gallery"] for row in rows] == ["test"] * 4 + ["train"] * 4
    for row in rows:
        assert len(row["neighbours"]) == {"test": 3, "train": 10}[row["gallery"]]
        assert row["video_id"] not in row["neighbours"] and row["cosines"] == sorted(row["cosines"], reverse=True)
    of_test = rows[:4]
    assert found.metrics["r@1"] == np.mean([row["labels"][0] == row["label"] for row in of_test])
    assert found.metrics["train_r@5"] == np.mean([row["label"] in row["labels"][:5] for row in rows[4:]])
    stamps = {path: path.stat().st_mtime_ns for path in (run / "features").iterdir()}
    run_retrieve(small(retrieve={"views": 1, "group": "/00[0-9]", "untrained": False}))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps  # not computed again
    assert {"other_groups_r@1", "other_groups_train_r@10"} <= set(result(workspace).metrics)
    assert "R@10 says little" in capfd.readouterr().err


def test_unread_queries_are_wrong_or_left_out(workspace: Workspace, small: Small) -> None:
    run_pretrain(small())
    relabel(workspace, lambda n: {"split": "test" if n % 2 else "train"})
    spoil(workspace, row=7)
    run_retrieve(small(retrieve={"untrained": False}))
    wrong = result(workspace)
    run_retrieve(small(retrieve={"untrained": False, "missing": "exclude"}))
    left_out = result(workspace)
    for name, value in left_out.metrics.items():
        assert wrong.metrics[name] * 7 == pytest.approx(value * 6)
    assert wrong.warnings[0].startswith("1 of 7 test videos count as wrong (retrieve.missing): 1 could not be read")


def test_no_labels_no_classes_to_retrieve(workspace: Workspace, small: Small) -> None:
    run_pretrain(small())
    relabel(workspace, lambda n: {"split": "train"})
    with pytest.raises(UserError, match="no labelled video of the split 'test'.*retrieve.test_split"):
        run_retrieve(small())
    relabel(workspace, lambda n: {"label": None})
    with pytest.raises(UserError, match="none of the 14 videos has a label"):
        run_retrieve(small())


CONTRASTIVE: dict[str, Any] = {"objective": {"contrastive": 1.0}, "retrieve": {"untrained": False, "test_share": 0.6}}


def texts_of(videos: Videos, row: int) -> list[tuple[str, Array]]:
    sidecar = videos.sidecar("text-blip2")
    if not sidecar.entries(row):
        return []
    place = sidecar.place(row)
    members = read_members(place, ("json", "text.npy"))
    return list(zip(guide_meta(members["json"], str(place)).captions, npy_array(members["text.npy"]), strict=True))


def recall_of(similar: Array, own: Array, k: int) -> float:
    """own[q, g]: whether g is an answer to q."""
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(own, order, 1).any(1).mean())


def test_captions_are_found_by_videos_and_videos_by_captions(workspace: Workspace, small: Small) -> None:
    """Two captions a video, one of them shared by all of its class; video 5 has none. By hand from files."""
    experiment = small(**CONTRASTIVE)
    run_pretrain(experiment)
    relabel(workspace, lambda n: {"split": "test" if n > 3 else "train"})
    record = run_retrieve(experiment)
    assert set(record.inputs) == {"clips", "pretrain", "text", "head"} and record.config["text"] == "text-blip2"
    run = workspace.run("pretrain")
    kept = load_file(run / "features" / "trained-dense-2x1-norm.safetensors")
    state = load_file(run / "head.safetensors")
    videos, tested = open_videos(workspace, "text-blip2"), set(neighbours_of(run))
    feature_of = dict(zip(kept["rows"].tolist(), kept["features"].double(), strict=True))
    texts: dict[str, Array] = {}
    chosen: list[tuple[Array, set[str]]] = []
    for row, key in enumerate(videos.all_keys()):
        pairs = texts_of(videos, row)
        if key in tested and pairs:
            x = feature_of[digest64(key)] @ state["head.0.weight"].double().T
            normed = (x - state["head.1.running_mean"]) / (state["head.1.running_var"] + 1e-5).sqrt()
            x = torch.relu(normed * state["head.1.weight"] + state["head.1.bias"])
            x = x @ state["head.3.weight"].double().T + state["head.3.bias"]
            chosen.append(((x / x.norm()).numpy(), {text for text, _ in pairs}))
            for text, vector in pairs:
                texts.setdefault(text, vector.astype(float) / np.linalg.norm(vector.astype(float)))
    assert len(chosen) == len(tested) - 1 == 9 and len(texts) == 11  # two are shared
    similar = np.stack([x for x, _ in chosen]) @ np.stack(list(texts.values())).T
    own = np.array([[text in mine for text in texts] for _, mine in chosen])
    found = result(workspace)
    for k in (1, 5, 10):
        assert found.metrics[f"video_to_text_r@{k}"] == pytest.approx(recall_of(similar, own, k))
        assert found.metrics[f"text_to_video_r@{k}"] == pytest.approx(recall_of(similar.T, own.T, k))
    assert found.counts["texts"] == 11 and found.counts["without_captions"] == 1
    assert "1 test videos have no caption in guides/text-blip2 and are left out of text retrieval" in found.warnings


def neighbours_of(run: Path) -> list[str]:
    return [str(key) for key in pq.read_table(run / "retrieve" / "neighbours.parquet").column("key").to_pylist()]


def test_the_head_is_the_one_that_was_trained(workspace: Workspace, small: Small) -> None:
    run_pretrain(small(**CONTRASTIVE))
    head = load_head(workspace.run("pretrain") / "head.safetensors")
    assert not head.training and head(torch.randn(3, 96)).shape == (3, 12)


@pytest.mark.medium
def test_captions_where_they_can_be_had(workspace: Workspace, small: Small) -> None:
    """auto takes them where there are head and texts, always says what is missing, never leaves them alone."""
    run_pretrain(small())
    with pytest.raises(UserError, match="retrieve.text = 'always', but .*pretrain has no head.safetensors"):
        run_retrieve(small(retrieve={"text": "always"}))
    experiment = small(name="both", **CONTRASTIVE)
    run_pretrain(experiment)
    for options in ({"text": "never"}, {"layer": "block"}):
        run_retrieve(small(name="both", objective={"contrastive": 1.0}, retrieve={"untrained": False, **options}))
        assert not any("text" in name for name in result(workspace, "both").metrics)
    with pytest.raises(UserError, match="needs retrieve.layer = 'norm'"):
        run_retrieve(small(name="both", retrieve={"text": "always", "layer": "block"}))


def test_captions_for_another_workspace_s_encoder(workspace: Workspace, small: Small) -> None:
    """A run named by model.init brings its head; the captions are those of this workspace."""
    run_pretrain(small(**CONTRASTIVE))
    elsewhere = {"stages": ["retrieve"], "model": {"init": str(workspace.run("pretrain"))}, "name": "judged"}
    run_retrieve(small(**CONTRASTIVE))
    record = run_retrieve(small(**elsewhere, retrieve=CONTRASTIVE["retrieve"]))
    assert set(record.inputs) == {"clips", "init", "text", "head"}
    assert result(workspace, "judged").metrics == result(workspace).metrics
    shutil.move(workspace.guide("text-blip2"), workspace.root / "gone")
    run_retrieve(small(**elsewhere, retrieve={"untrained": False}))
    assert not any("text" in name for name in result(workspace, "judged").metrics)
    with pytest.raises(UserError, match="run `tgmae guide .*--guide text --captions blip2"):
        run_retrieve(small(**elsewhere, retrieve={"text": "always"}))


def test_chance_of_finding_a_text_is_hypergeometric() -> None:
    owners, videos = np.array([1, 3, 7, 20]), 20
    for k in (1, 5, 10, 30):
        drawn = min(k, videos)
        expected = np.mean([1 - hypergeom(videos, owner, drawn).pmf(0) for owner in owners])
        assert chance(owners, videos, k) == pytest.approx(expected)
