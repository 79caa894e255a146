"""What the predictions of a test come to. Plain numpy, so that every number can be counted again by hand.

Shape suffixes: S videos, K classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def best(scores_SK: Floats, k: int) -> Ints:
    """The k classes of the greatest scores, best first, int64 [S, min(k, K)]; equal ones by their number."""
    return np.argsort(-scores_SK, axis=1, kind="stable")[:, :k].astype(np.int64)


def top_k(scores_SK: Floats, label_S: Ints, k: int) -> Bools:
    """Whether a video's class is among the k with the greatest scores, bool [S]."""
    return np.asarray((best(scores_SK, k) == label_S[:, None]).any(1))


def mean_class_accuracy(correct_S: Bools, label_S: Ints) -> float:
    """The mean, over the classes that have test videos, of the share of their videos that is right."""
    totals, right = np.bincount(label_S), np.bincount(label_S, weights=correct_S)
    return float((right[totals > 0] / totals[totals > 0]).mean())


def accuracies(scores_SK: Floats, label_S: Ints, unread: Ints) -> dict[str, float]:
    """top1, top5 (of fewer than five classes: all) and mean_class.

    unread: classes of the videos that have no scores and count as wrong, int64, any number.
    Errors: ValueError when there is no video at all.
    """
    if not len(label_S) + len(unread):
        raise ValueError("no video to judge by")
    wrong, labels = np.zeros(len(unread), bool), np.concatenate((label_S, unread))
    hits = {k: np.concatenate((top_k(scores_SK, label_S, k), wrong)) for k in (1, 5)}
    return {
        "top1": float(hits[1].mean()),
        "top5": float(hits[5].mean()),
        "mean_class": mean_class_accuracy(hits[1], labels),
    }


def confusion(predicted_S: Ints, label_S: Ints, classes: int) -> Ints:
    """How many videos of class i (row) were taken for class j (column): int64 [K, K]."""
    counts = np.bincount(label_S * classes + predicted_S, minlength=classes**2)
    return counts.reshape(classes, classes).astype(np.int64)
