"""Masks: exact counts, ranks, ties, symmetries, and messages that help."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from train.masks import MASKS, bottom_k, hidden_per_slice, make_mask, random, top_k, tube

SHAPE = (8, 14, 14)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 5))
ratios = st.floats(0.01, 0.99)
# Few distinct values: ties everywhere.
tied_scores = shapes.flatmap(lambda s: hnp.arrays(np.int8, s, elements=st.integers(-128, 127) | st.integers(-1, 1)))


@pytest.mark.parametrize(
    ("ratio", "patches", "hidden"),
    [
        (0.9, 196, 176),  # VideoMAE: 20 of 196 left
        (0.75, 196, 147),
        (0.6, 196, 118),  # 117.6: published codes truncate to 117
        (0.65, 196, 127),
        (0.55, 196, 108),
        (0.5, 9, 5),  # 4.5: a half goes up
        (0.7, 45, 32),  # 31.5, though 0.7 * 45 is 31.499... in floating point
        (0.999, 4, 3),  # one patch stays visible
        (0.001, 4, 1),  # one patch is hidden
    ],
)
def test_hidden_per_slice(ratio: float, patches: int, hidden: int) -> None:
    assert hidden_per_slice(ratio, patches) == hidden


@given(ratios, st.integers(2, 400))
def test_hidden_per_slice_is_the_nearest_count_that_hides_and_leaves_some(ratio: float, patches: int) -> None:
    k = hidden_per_slice(ratio, patches)
    assert 1 <= k <= patches - 1
    if 1 < k < patches - 1:
        assert abs(k - Fraction(str(ratio)) * patches) <= Fraction(1, 2)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 75, float("nan")])
def test_a_ratio_is_between_0_and_1(ratio: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        hidden_per_slice(ratio, 196)


@pytest.mark.parametrize("ratio", [0.55, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("kind", MASKS)
def test_every_kind_hides_the_same_number(kind: str, ratio: float) -> None:
    scores = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    mask = make_mask(kind, ratio=ratio, shape=SHAPE, scores=scores, rng=np.random.default_rng(1))
    k = hidden_per_slice(ratio, 196)
    assert mask.dtype == np.bool_ and mask.shape == SHAPE
    assert mask.sum() == 8 * k
    if kind != "random":
        assert (mask.sum((1, 2)) == k).all()


@given(tied_scores, ratios)
def test_score_masks_agree_with_sorting_in_python(scores: np.ndarray, ratio: float) -> None:
    k = hidden_per_slice(ratio, scores[0].size)
    for function, sign in ((top_k, -1), (bottom_k, 1)):
        for row, flags in zip(scores, function(scores, k), strict=True):
            ranked = sorted(range(row.size), key=lambda i: (sign * int(row.flat[i]), i))  # ties: lower index
            assert set(np.flatnonzero(flags)) == set(ranked[:k])


@given(shapes, ratios, st.integers(0, 2**32))
def test_score_masks_follow_flips_and_permutations(shape: tuple[int, int, int], ratio: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.float32)  # no ties
    k = hidden_per_slice(ratio, shape[1] * shape[2])
    order = rng.permutation(shape[1] * shape[2])

    def shuffle(x: np.ndarray) -> np.ndarray:
        return x.reshape(shape[0], -1)[:, order].reshape(shape)

    for function in (top_k, bottom_k):
        mask = function(scores, k)
        np.testing.assert_array_equal(function(scores[..., ::-1], k), mask[..., ::-1])
        np.testing.assert_array_equal(function(scores[::-1], k), mask[::-1])
        np.testing.assert_array_equal(function(shuffle(scores), k), shuffle(mask))
        np.testing.assert_array_equal(function(3 * scores - 7, k), mask)  # only ranks count
    np.testing.assert_array_equal(top_k(-scores, k), bottom_k(scores, k))


def test_tube_is_constant_in_time_and_random_is_not() -> None:
    assert (lambda m: (m == m[:1]).all())(tube(np.random.default_rng(0), SHAPE, 147))
    assert len({int(n) for n in random(np.random.default_rng(0), SHAPE, 147).sum((1, 2))}) > 1


@pytest.mark.parametrize("kind", ["tube", "random"])
def test_drawn_masks_depend_on_the_seed_alone_and_cover_all_places_evenly(kind: str) -> None:
    def draw(seed: int) -> np.ndarray:
        return make_mask(kind, ratio=0.75, shape=SHAPE, rng=np.random.default_rng(seed))

    np.testing.assert_array_equal(draw(5), draw(5))
    assert (draw(5) != draw(6)).any()
    share = np.mean([draw(seed) for seed in range(400)], axis=0)
    assert abs(share - 0.75).max() < 5 * np.sqrt(0.75 * 0.25 / 400)


@pytest.mark.parametrize("kind", ["top-k", "bottom-k"])
def test_nan_scores_are_refused_and_infinite_ones_rank(kind: str) -> None:
    scores = np.zeros((1, 2, 2), np.float32)
    scores[0, 0, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 4 scores are NaN"):
        make_mask(kind, ratio=0.5, shape=(1, 2, 2), scores=scores)
    scores[0, 0, 1] = np.inf if kind == "top-k" else -np.inf
    assert make_mask(kind, ratio=0.25, shape=(1, 2, 2), scores=scores)[0, 0, 1]


def test_messages_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="top-k, bottom-k, tube, random; did you mean 'top-k'"):
        make_mask("topk", ratio=0.5, shape=SHAPE)
    with pytest.raises(ValueError, match="give the run a guide"):
        make_mask("top-k", ratio=0.5, shape=SHAPE)
    with pytest.raises(ValueError, match=r"\(8, 7, 7\), the token grid is \(8, 14, 14\)"):
        make_mask("top-k", ratio=0.5, shape=SHAPE, scores=np.zeros((8, 7, 7)))
    with pytest.raises(ValueError, match="smaller patches"):
        make_mask("tube", ratio=0.5, shape=(1, 1, 1), rng=np.random.default_rng(0))
