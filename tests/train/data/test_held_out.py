"""Which videos are held out: of each class its share, whole recordings together."""

import numpy as np
import pytest

from train.data.splits import held_out


def naive(keys: list[str], labels: list[int], share: float) -> list[bool]:
    chosen: set[int] = set()
    for label in set(labels):
        rows = sorted((row for row, each in enumerate(labels) if each == label), key=lambda row: keys[row])
        chosen |= set(rows[: min(int(share * len(rows) + 0.5), len(rows) - 1)])
    return [row in chosen for row in range(len(keys))]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_single_videos_are_the_first_of_each_class(share: float) -> None:
    rng = np.random.default_rng(0)
    keys = [f"{number:05d}" for number in rng.permutation(97)]
    labels = rng.integers(0, 5, 97)
    expected = naive(keys, labels.tolist(), share)
    assert held_out(keys, labels, share).tolist() == expected
    assert held_out(keys, labels, share, rng.permutation(97)).tolist() == expected  # each its own recording


def test_no_recording_is_on_both_sides() -> None:
    rng = np.random.default_rng(1)
    keys = [f"{number:05d}" for number in rng.permutation(300)]
    group = rng.integers(0, 40, 300)
    labels = rng.integers(0, 4, 300)  # recordings have several classes
    held = held_out(keys, labels, 0.2, group)
    assert not set(group[held]) & set(group[~held])
    for label in range(4):
        of_class = labels == label
        assert 0.2 <= held[of_class].mean() < 0.5 and not held[of_class].all()


def test_a_class_of_one_recording_keeps_it() -> None:
    labels, group = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 2, 3])
    assert held_out(list("abcdef"), labels, 0.34, group).tolist() == [False, False, False, True, False, False]
