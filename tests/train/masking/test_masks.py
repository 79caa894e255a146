"""Masks: exact counts, ranks, ties, symmetries, and messages that help."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.config import Mask
from schemas.registry import MASKS
from train.masking.carried_map import FINE
from train.masking.decoder_cells import running_cells
from train.masking.masks import (
    bottom_k,
    hidden_per_slice,
    make_mask,
    motion_box,
    motion_top_k,
    optical_flow,
    random,
    share_at,
    top_k,
    tube,
)
from train.trainer import mask_facts

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


def inputs(shape: tuple[int, int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Scores and a flow for make_mask, which takes what the kind needs."""
    t, h, w = shape
    return {"scores": rng.normal(size=shape), "flow": rng.normal(size=(t, 2, h * FINE, w * FINE, 2))}


@given(st.sampled_from(list(MASKS)), shapes, ratios, st.integers(0, 2**32))
def test_every_kind_hides_the_same_number(kind: str, shape: tuple[int, int, int], ratio: float, seed: int) -> None:
    made_of = inputs(shape, np.random.default_rng(seed))
    mask = make_mask(kind, ratio=ratio, shape=shape, rng=np.random.default_rng(1), **made_of)
    k = hidden_per_slice(ratio, shape[1] * shape[2])
    assert mask.dtype == np.bool_ and mask.shape == shape
    assert mask.sum() == shape[0] * k
    if kind != "random":
        assert (mask.sum((1, 2)) == k).all()
    np.testing.assert_array_equal(
        mask, make_mask(kind, ratio=ratio, shape=shape, rng=np.random.default_rng(1), **made_of)
    )


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

    for function in (top_k, bottom_k, motion_top_k):
        mask = function(scores, k, rng)
        np.testing.assert_array_equal(function(scores[..., ::-1], k, rng), mask[..., ::-1])
        np.testing.assert_array_equal(function(scores[::-1], k, rng), mask[::-1])
        np.testing.assert_array_equal(function(shuffle(scores), k, rng), shuffle(mask))
        np.testing.assert_array_equal(function(3 * scores - 7, k, rng), mask)  # only ranks count
    np.testing.assert_array_equal(top_k(-scores, k), bottom_k(scores, k))


@pytest.mark.medium
@given(tied_scores, ratios)
def test_motion_hides_the_greatest_scores_and_breaks_ties_by_chance(scores: np.ndarray, ratio: float) -> None:
    k = hidden_per_slice(ratio, scores[0].size)
    mask = motion_top_k(scores, k, np.random.default_rng(0))
    for row, flags in zip(scores, mask, strict=True):
        assert flags.sum() == k and (flags.all() or row[flags].min() >= row[~flags].max())


def test_a_still_picture_is_hidden_evenly() -> None:
    still = np.zeros((1, 4, 4))
    share = np.mean([motion_top_k(still, 8, np.random.default_rng(seed)) for seed in range(400)], axis=0)
    assert abs(share - 0.5).max() < 5 * np.sqrt(0.25 / 400)


def test_the_share_of_scores_goes_from_end_to_end() -> None:
    assert [share_at(epoch, 5, (1.0, 0.2)) for epoch in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert share_at(0, 1, (0.3, 0.9)) == 0.3
    assert share_at(7, 9, (1.0, 1.0)) == 1.0


@given(tied_scores, ratios, st.floats(0, 1), st.integers(0, 2**32))
def test_a_share_of_the_hidden_tokens_is_chosen_by_score(
    scores: np.ndarray, ratio: float, share: float, seed: int
) -> None:
    k = hidden_per_slice(ratio, scores[0].size)
    mask = top_k(scores, k, np.random.default_rng(seed), share)
    by_score = math.floor(Fraction(str(share)) * k + Fraction(1, 2))
    assert (mask.sum((1, 2)) == k).all()
    assert not (top_k(scores, by_score) & ~mask).any()
    if share == 1:
        np.testing.assert_array_equal(mask, top_k(scores, k))


def test_the_rest_of_a_share_is_drawn_evenly_among_the_others() -> None:
    scores = np.arange(16.0).reshape(1, 4, 4)
    masks = [make_mask("top-k", ratio=0.5, shape=(1, 4, 4), scores=scores, rng=np.random.default_rng(seed), share=0.5)
             for seed in range(400)]  # fmt: skip
    share = np.mean(masks, axis=0).ravel()
    assert (share[12:] == 1).all() and abs(share[:12] - 4 / 12).max() < 5 * np.sqrt(2 / 9 / 400)


def box_by_loops(scores_HW: np.ndarray, k: int) -> set[int]:
    """The definition of motion_box, token after token."""
    h, w = scores_HW.shape
    weight = scores_HW - scores_HW.min() if scores_HW.max() > scores_HW.min() else np.ones((h, w))
    cells = [(y, x) for y in range(h) for x in range(w)]
    centroid = [sum(weight[c] * (c[axis] + 0.5) for c in cells) / weight.sum() / (h, w)[axis] for axis in (0, 1)]
    half = math.sqrt(k / (h * w)) / 2
    centre = [min(max(value, half), 1 - half) for value in centroid]

    def keys(c: tuple[int, int]) -> tuple[float, float]:
        place = (c[0] + 0.5) / h, (c[1] + 0.5) / w
        ring = max(abs(p - m) for p, m in zip(place, centre, strict=True))
        return round(ring, 9), round(sum((p - m) ** 2 for p, m in zip(place, centroid, strict=True)), 9)

    return {w * y + x for y, x in sorted(cells, key=keys)[:k]}


grids = st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))


@given(grids, ratios, st.integers(0, 2**32))
def test_the_motion_box_by_loops(shape: tuple[int, int, int], ratio: float, seed: int) -> None:
    scores = np.random.default_rng(seed).exponential(size=shape)
    k = hidden_per_slice(ratio, shape[1] * shape[2])
    mask = motion_box(scores, k, np.random.default_rng(0))
    for scores_HW, mask_HW in zip(scores, mask, strict=True):
        assert set(np.flatnonzero(mask_HW)) == box_by_loops(scores_HW, k)
        rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
        # A box whose outermost ring may be incomplete.
        assert mask_HW[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]].all()
    np.testing.assert_array_equal(motion_box(scores[..., ::-1], k, np.random.default_rng(0)), mask[..., ::-1])
    np.testing.assert_array_equal(motion_box(2 * scores + 5, k, np.random.default_rng(0)), mask)


def test_the_motion_box_follows_the_motion_and_stays_in_the_frame() -> None:
    scores = np.zeros((3, 8, 8))
    scores[0, 4, 4], scores[1, 0, 7] = 9, 9
    mask = motion_box(scores, 16, np.random.default_rng(0))
    corner = np.zeros((8, 8), bool)
    corner[:4, 4:] = True
    assert mask[0, 4, 4] and np.array_equal(mask[1], corner)
    assert mask[2, 2:6, 2:6].all()  # nothing moves: the middle


def test_without_motion_the_flow_mask_is_a_tube() -> None:
    still = np.zeros((8, 2, 14 * FINE, 14 * FINE, 2))
    mask = optical_flow(still, 176, np.random.default_rng(0))
    assert (mask == mask[:1]).all() and (~mask[0]).sum() == 20
    share = np.mean([optical_flow(still[:1], 147, np.random.default_rng(seed)) for seed in range(100)], axis=0)
    assert abs(share - 0.75).max() < 5 * np.sqrt(0.75 * 0.25 / 100)


def v2_decoder_masks(shape: tuple[int, int, int], skipped: int) -> list[np.ndarray]:
    """V2's own steps: a ring queue of ones, then zeros, read from a place that runs on; 1: skipped."""
    t, h, w = shape
    queue = [1] * skipped + [0] * (4 - skipped)
    masks = []
    for start in range(4):
        pointer, slices = start, []
        for _ in range(t):
            pointer += 1
            cell = np.asarray([queue[(pointer + place) % 4] for place in range(4)]).reshape(2, 2)
            slices.append(np.tile(cell, (h // 2, w // 2)))
        masks.append(np.stack(slices) == 1)
    return masks


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 7), st.integers(0, 3), st.integers(0, 2**32))
def test_running_cells_are_those_of_videomae_v2(t: int, rows: int, columns: int, skipped: int, seed: int) -> None:
    shape = (t, 2 * rows, 2 * columns)
    predicted = running_cells(shape, skipped / 4, np.random.default_rng(seed))
    assert any(np.array_equal(predicted, ~mask) for mask in v2_decoder_masks(shape, skipped))
    assert (predicted.sum((1, 2)) == rows * columns * (4 - skipped)).all()


def test_all_four_running_cells_come_up() -> None:
    drawn = {running_cells((8, 14, 14), 0.5, np.random.default_rng(seed)).tobytes() for seed in range(40)}
    assert drawn == {(~mask).tobytes() for mask in v2_decoder_masks((8, 14, 14), 2)}


def test_cells_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"0.3 is not 0, 0.25, 0.5 or 0.75"):
        running_cells((8, 14, 14), 0.3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="do not divide a grid of 7 x 14"):
        running_cells((8, 7, 14), 0.5, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ({"kind": "top-k", "ratio": 0.6}, ["hides 118 of 196 patches in each of 8 slices", "624 tokens are visible"]),
        ({"kind": "random", "ratio": 0.9}, ["hides 1408 of 1568 patches of the clip", "160 tokens are visible"]),
        ({"text_share": (1.0, 0.25)}, ["scores choose 1 of the hidden ones at first, 0.25 at last, chance the rest"]),
        ({"kind": "tube", "decoder_ratio": 0.5}, ["predicts 784 of 1568 tokens (running cells, ratio 0.5)"]),
    ],
)
def test_the_log_says_how_many(mask: dict[str, object], said: list[str]) -> None:
    text = "; ".join(mask_facts(Mask.model_validate(mask), SHAPE).values())
    assert all(part in text for part in said), text


@given(shapes, ratios, st.integers(0, 2**32))
def test_a_tube_is_constant_in_time(shape: tuple[int, int, int], ratio: float, seed: int) -> None:
    mask = tube(shape, hidden_per_slice(ratio, shape[1] * shape[2]), np.random.default_rng(seed))
    assert (mask == mask[:1]).all()


def test_random_slices_differ() -> None:
    assert len({int(n) for n in random(SHAPE, 147, np.random.default_rng(0)).sum((1, 2))}) > 1


@pytest.mark.parametrize("kind", ["tube", "random"])
def test_drawn_masks_depend_on_the_seed_alone_and_cover_all_places_evenly(kind: str) -> None:
    def draw(seed: int) -> np.ndarray:
        return make_mask(kind, ratio=0.75, shape=SHAPE, rng=np.random.default_rng(seed))

    np.testing.assert_array_equal(draw(5), draw(5))
    assert (draw(5) != draw(6)).any()
    share = np.mean([draw(seed) for seed in range(400)], axis=0)
    assert abs(share - 0.75).max() < 5 * np.sqrt(0.75 * 0.25 / 400)


@pytest.mark.parametrize("kind", ["top-k", "bottom-k", "motion-vectors", "motion-box"])
def test_nan_scores_are_refused_and_infinite_ones_rank(kind: str) -> None:
    scores = np.zeros((1, 2, 2), np.float32)
    scores[0, 0, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 4 scores are NaN"):
        make_mask(kind, ratio=0.5, shape=(1, 2, 2), scores=scores, rng=np.random.default_rng(0))
    if kind != "motion-box":  # which needs sums
        scores[0, 0, 1] = -np.inf if kind == "bottom-k" else np.inf
        assert make_mask(kind, ratio=0.25, shape=(1, 2, 2), scores=scores, rng=np.random.default_rng(0))[0, 0, 1]


def test_messages_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="unknown mask 'topk'. Did you mean 'top-k'"):
        make_mask("topk", ratio=0.5, shape=SHAPE)
    for kind, needs in (("top-k", "scores"), ("motion-box", "scores"), ("optical-flow", "flow")):
        with pytest.raises(ValueError, match=f"{kind}' needs {needs}: give the run a guide"):
            make_mask(kind, ratio=0.5, shape=SHAPE, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"flow have shape .*the token grid is \(8, 14, 14\)"):
        make_mask("optical-flow", ratio=0.5, shape=SHAPE, flow=np.zeros((8, 2, 14, 14, 2)))
    with pytest.raises(ValueError, match=r"\(8, 7, 7\), the token grid is \(8, 14, 14\)"):
        make_mask("top-k", ratio=0.5, shape=SHAPE, scores=np.zeros((8, 7, 7)))
    with pytest.raises(ValueError, match="smaller patches"):
        make_mask("tube", ratio=0.5, shape=(1, 1, 1), rng=np.random.default_rng(0))
