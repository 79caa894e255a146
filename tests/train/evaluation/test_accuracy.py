"""Metrics against scikit-learn's, and the classes that two heads tell apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from schemas.errors import UserError
from schemas.workspace import Workspace
from train.data.classes import Classes, Head, read_classes
from train.data.videos import open_videos
from train.evaluation.accuracy import accuracies, best, confusion, mean_class_accuracy, top_k

NONE = np.zeros(0, np.int64)


def test_sizes() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]])
    assert best(scores, 5).tolist() == [[1, 2, 0], [0, 1, 2]]
    assert top_k(scores, np.array([2, 1]), 1).tolist() == [False, False]
    assert top_k(scores, np.array([2, 1]), 2).tolist() == [True, True]


@given(seed=st.integers(0, 2**32 - 1), videos=st.integers(1, 60), classes=st.integers(2, 12))
def test_metrics_are_scikit_learns(seed: int, videos: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.random((videos, classes)), rng.integers(classes, size=videos)
    found, predicted = accuracies(scores, labels, NONE), scores.argmax(1)
    every = np.arange(classes)
    assert found["top1"] == pytest.approx(accuracy_score(labels, predicted))
    if classes > 2:  # scikit-learn takes two columns of scores for something else
        assert found["top1"] == pytest.approx(top_k_accuracy_score(labels, scores, k=1, labels=every))
    if classes > 5:
        assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=every))
    else:
        assert found["top5"] == 1
    matrix = confusion(best(scores, 1)[:, 0], labels, classes)
    np.testing.assert_array_equal(matrix, confusion_matrix(labels, predicted, labels=every))
    if set(predicted) <= set(labels) and len(set(labels)) > 1:  # else scikit-learn warns
        assert found["mean_class"] == pytest.approx(balanced_accuracy_score(labels, predicted))


@given(seed=st.integers(0, 2**32 - 1), videos=st.integers(1, 20), unread=st.integers(0, 20))
def test_videos_without_scores_count_as_wrong(seed: int, videos: int, unread: int) -> None:
    """As many as if each had been predicted, as another class than its own."""
    rng = np.random.default_rng(seed)
    scores, labels, lost = rng.random((videos, 7)), rng.integers(7, size=videos), rng.integers(7, size=unread)
    wrong = -np.eye(7)[lost]  # best: some other class
    found, explicit = accuracies(scores, labels, lost), np.concatenate((scores, wrong))
    everything = np.concatenate((labels, lost))
    hits = explicit.argmax(1) == everything
    assert found["top1"] == pytest.approx(hits.mean())
    assert found["mean_class"] == pytest.approx(mean_class_accuracy(hits, everything))
    per_class = [hits[everything == label].mean() for label in np.unique(everything)]
    assert found["mean_class"] == pytest.approx(np.mean(per_class))


def test_nothing_to_judge_by() -> None:
    with pytest.raises(ValueError, match="no video"):
        accuracies(np.zeros((0, 3)), NONE, NONE)


def pairs() -> Classes:
    """Four actions of three verbs and two nouns; the third verb is of no action with the first noun."""
    return Classes(
        ("cut onion", "cut pan", "wash onion", "open pan"),
        (Head("verb", 3, np.array([0, 0, 1, 2])), Head("noun", 2, np.array([0, 1, 0, 1]))),
    )


def test_an_actions_score_is_the_product() -> None:
    verb, noun = np.array([[0.5, 0.3, 0.2]], np.float32), np.array([[0.9, 0.1]], np.float32)
    scores = pairs().scores(np.concatenate((verb, noun), 1))
    np.testing.assert_allclose(scores, [[0.45, 0.05, 0.27, 0.02]], rtol=1e-6)


def test_one_head_keeps_its_probabilities() -> None:
    classes = Classes(("a", "b"), (Head("label", 2, np.arange(2)),))
    probability = np.array([[0.25, 0.75]], np.float32)
    np.testing.assert_array_equal(classes.scores(probability), probability)


def test_shares_of_classes_become_shares_of_a_heads_answers() -> None:
    verb, noun = pairs().heads
    shares = torch.tensor([[0.25, 0.75, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    assert verb.target(shares).tolist() == [[1, 0, 0], [0, 0.5, 0.5]]
    assert noun.target(shares).tolist() == [[0.25, 0.75], [0.5, 0.5]]


def write_classes(workspace: Workspace, content: Any) -> None:
    workspace.manifest.mkdir()
    (workspace.manifest / "classes.json").write_text(json.dumps(content))


def test_classes_of_a_manifest(workspace: Workspace) -> None:
    names = [f"class {label}" for label in range(4)]
    groups = {
        "verb": {"names": ["v0", "v1", "v2"], "of_class": [0, 0, 1, 2]},
        "noun": {"names": ["n0", "n1"], "of_class": [0, 1, 0, 1]},
    }
    write_classes(workspace, {"classes": names, "groups": groups})
    videos = open_videos(workspace)
    assert read_classes(workspace, videos, "label").names == tuple(names)
    found = read_classes(workspace, videos, "verb-noun")
    assert [(head.name, head.size) for head in found.heads] == [("verb", 3), ("noun", 2)] and found.outputs == 5


def test_without_a_list_the_videos_name_the_classes(workspace: Workspace) -> None:
    assert read_classes(workspace, open_videos(workspace), "label").names == ("slow", "fast")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": ["only one"]}, "names 1 classes, but 7 videos have a label beyond"),
        ({"classes": ["a", "b"]}, "needs the verb and the noun of each class"),
        (
            {
                "classes": ["a", "b"],
                "groups": {
                    "verb": {"names": ["v"], "of_class": [0, 1]},
                    "noun": {"names": ["n"], "of_class": [0, 0]},
                },
            },
            "groups.verb.of_class is not one of its 1 verbs for each of 2 classes",
        ),
    ],
)
def test_classes_that_do_not_fit(workspace: Workspace, content: Any, message: str) -> None:
    write_classes(workspace, content)
    with pytest.raises(UserError, match=message):
        read_classes(workspace, open_videos(workspace), "verb-noun")


def test_a_list_that_is_not_json(workspace: Workspace) -> None:
    workspace.manifest.mkdir()
    (workspace.manifest / "classes.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_classes(workspace, open_videos(workspace), "label")
