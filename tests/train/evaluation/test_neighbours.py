"""Exact search in chunks against a loop over all pairs, and the k-NN classifier against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from train.evaluation import neighbours
from train.evaluation.neighbours import Neighbours, nearest, recalls, votes

CPU = torch.device("cpu")
Array = np.ndarray[Any, Any]


def features(seed: int, rows: int, width: int = 5, different: int | None = None) -> Array:
    """With `different` fewer than rows, many point the same way, in several lengths: their cosines tie."""
    rng = np.random.default_rng(seed)
    some = rng.normal(size=(different or rows, width)).astype(np.float32)
    chosen = some[rng.integers(len(some), size=rows)] if different else some
    return chosen * 2.0 ** rng.integers(3, size=(rows, 1)).astype(np.float32)  # exact


def by_loop(query: Array, gallery: Array, count: int, groups: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """Every pair, one after the other; equal cosines (to 7 digits) in the order of rows."""
    index, cosines = np.full((len(query), count), -1), np.full((len(query), count), -np.inf)
    for q, a in enumerate(query.astype(np.float64)):
        pairs = []
        for g, b in enumerate(gallery.astype(np.float64)):
            if groups is None or groups[0][q] != groups[1][g]:
                norms = np.linalg.norm(a) * np.linalg.norm(b)
                pairs.append((-round(float(a @ b / norms), 7) + 0.0, g))
        for place, (negative, g) in enumerate(sorted(pairs)[:count]):
            index[q, place], cosines[q, place] = g, -negative
    return index, cosines


@given(
    seed=st.integers(0, 10**6), queries=st.integers(1, 12), rows=st.integers(1, 25), different=st.integers(1, 8),
    count=st.integers(1, 12), chunk=st.integers(1, 30), kinds=st.integers(0, 4),
)  # fmt: skip
def test_search_is_the_loop_over_all_pairs(
    seed: int, queries: int, rows: int, different: int, count: int, chunk: int, kinds: int
) -> None:
    """Ties, chunks of any size, galleries smaller than `count` and groups that leave a query with nothing."""
    both = features(seed, queries + rows, different=different)
    query, gallery = both[:queries], both[queries:]
    rng = np.random.default_rng(seed)
    groups = (rng.integers(kinds, size=queries), rng.integers(kinds, size=rows)) if kinds else None
    found = nearest(query, gallery, count, chunk=chunk, device=CPU, groups=groups)
    index, cosines = by_loop(query, gallery, count, groups)
    assert found.index_QN.tolist() == index.tolist()
    np.testing.assert_allclose(found.similarity_QN, cosines, atol=1e-6)


def test_a_video_is_not_its_own_neighbour() -> None:
    x, alone = features(0, 30, different=6), np.arange(30)
    found = nearest(x, x, 29, chunk=7, device=CPU, groups=(alone, alone))
    for row, near in enumerate(found.index_QN.tolist()):
        assert sorted(near) == [other for other in range(30) if other != row]


def test_opposite_and_empty_features_are_ranked() -> None:
    gallery = np.array([[-1, 0], [0, 0], [0, -1], [2, 0], [-0.0, 3]], np.float32)
    found = nearest(np.array([[1, 0]], np.float32), gallery, 5, chunk=2, device=CPU)
    assert found.index_QN.tolist() == [[3, 1, 2, 4, 0]]  # 0 and -0 tie
    assert found.similarity_QN.tolist() == [[1, 0, 0, 0, -1]]


@pytest.mark.parametrize(("count", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (200, 0.2)])
def test_votes_are_scikit_learns(count: int, temperature: float) -> None:
    """The same neighbours, brute force, and the same weights: the same shares of the vote."""
    rng = np.random.default_rng(count)
    train, test, label = features(1, 60), features(2, 25), rng.integers(4, size=60)
    theirs = KNeighborsClassifier(
        min(count, 60),
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    ).fit(train, label)
    found = nearest(test, train, count, chunk=16, device=CPU)
    ours = votes(found, label, 4, temperature)
    np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), theirs.predict_proba(test), atol=1e-4)


def test_a_sharp_temperature_does_not_overflow() -> None:
    found = Neighbours(np.array([[0, 1]]), np.array([[0.9, 0.1]], np.float32))
    assert votes(found, np.array([1, 0]), 2, 1e-3).tolist() == [[0, 1]]


def test_recall_counts_queries_without_an_answer() -> None:
    hits = np.zeros((4, 10), bool)
    hits[0, 0] = hits[1, 4] = hits[2, 9] = True
    assert recalls(hits) == {"r@1": 0.25, "r@5": 0.5, "r@10": 0.75}
    assert recalls(hits, wrong=4, prefix="train_") == {"train_r@1": 0.125, "train_r@5": 0.25, "train_r@10": 0.375}


def test_no_more_than_a_chunk_of_similarities_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    real = neighbours._rank
    monkeypatch.setattr(neighbours, "_rank", lambda x, first: shapes.append(tuple(x.shape)) or real(x, first))
    nearest(features(0, 70), features(1, 90), 3, chunk=32, device=CPU)
    assert sorted(set(shapes)) == [(6, 26), (6, 32), (32, 26), (32, 32)] and len(shapes) == 9
