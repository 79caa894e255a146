"""Masks from score maps, motion or chance: numpy, one clip at a time, True = hidden (paper equation 2).

Every mask is a function (what it is made of, k, rng) -> bool [T, H, W] that hides exactly k tokens of
every time slice (`random`: k * T of the clip), so every sample of a batch hides the same number, which
batching needs (train/models/videomae.py). What it is made of is scores float [T, H, W], a flow
(train/data/clip_flow.py) or the grid's shape alone. docs/masks.md has the table with sources and deviations.

Shape suffixes: T time slices (tubelets), H rows, W columns of the token grid; P = H*W.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.registry import MASKS
from train.masking.carried_map import FINE, visible_sums

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Shape = tuple[int, int, int]
Rng = np.random.Generator


def hidden_per_slice(ratio: float, patches: int) -> int:
    """How many of a slice's patches are hidden: ratio * patches rounded, a half upwards.

    The ratio counts as the decimal number that was written (0.7 * 45 is 31.5, not 31.499...).
    At least one patch is hidden and at least one left. The paper gives k = ratio * patches
    without a rounding; published codes truncate (0.6 of 196: 117 there, 118 here), so runs
    should log this number. Errors: ValueError for a ratio outside (0, 1) or under two patches.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"mask ratio {ratio} is not between 0 and 1 (0.75 hides three patches of four)")
    if patches < 2:
        raise ValueError(f"a slice of {patches} patch cannot be partly hidden: use smaller patches or a larger image")
    return min(max(_part(ratio, patches), 1), patches - 1)


def share_at(epoch: int, epochs: int, ends: tuple[float, float]) -> float:
    """mask.text_share in an epoch (counted from 0): linear from the first epoch's to the last one's."""
    start, end = ends
    return start if epochs == 1 else start + (end - start) * epoch / (epochs - 1)


def top_k(scores_THW: Array, k: int, rng: Rng | None = None, share: float = 1.0) -> Bools:
    """Hide the k highest scores of every slice: text-guided masking (paper section 3.3).

    Ties go to the lower index, so the mask is a function of its scores alone. With share < 1 only
    share * k tokens (rounded, a half upwards) are hidden by score; rng draws the rest of the k among
    the slice's others, each slice by itself.
    """
    chosen_TP = _first_k(-_ranked(scores_THW), _part(share, k))
    if share < 1:
        assert rng is not None, "a share below 1 draws: hand over a numpy Generator"
        chosen_TP = _first_k(np.where(chosen_TP, -1, rng.random(chosen_TP.shape)), k)
    return chosen_TP.reshape(scores_THW.shape)


def bottom_k(scores_THW: Array, k: int, rng: Rng | None = None) -> Bools:
    """Hide the k lowest scores of every slice (the paper's ablation of the direction); ties as in top_k."""
    return _first_k(_ranked(scores_THW), k).reshape(scores_THW.shape)


def motion_top_k(scores_THW: Array, k: int, rng: Rng) -> Bools:
    """Hide the k tokens of every slice that move most (MGM, Fan et al. 2023).

    Scores are magnitudes of motion. Where nothing moves all scores tie: rng orders those at random,
    for the lower index would always hide the top of a still picture.
    """
    keys_TP = -_ranked(scores_THW)
    return _first_k(keys_TP, k, rng.random(keys_TP.shape)).reshape(scores_THW.shape)


def motion_box(scores_THW: Array, k: int, rng: Rng) -> Bools:
    """Hide one box of k tokens in every slice, where the motion is (MGM, Fan et al. 2023).

    A reconstruction: MGM published no code and its text does not say how the box is placed. Here the
    box has the grid's proportions and the area k, and is centred on the centroid of the slice's motion
    (scores above the slice's least; the middle where all are equal), moved inwards as far as the frame
    demands. Exactly k tokens: the first k by distance from the box's centre, measured so that equal
    distances are boxes; of the last, incomplete ring those nearest to the centroid, then by rng.
    """
    _ranked(scores_THW)
    t, *sides = scores_THW.shape
    weight_THW = scores_THW.astype(np.float64)
    weight_THW -= weight_THW.min((1, 2), keepdims=True)
    weight_THW[weight_THW.sum((1, 2)) == 0] = 1
    half = math.sqrt(k / math.prod(sides)) / 2  # of the box's side, as a share of the frame's
    ring_THW, near_THW = np.zeros_like(weight_THW), np.zeros_like(weight_THW)
    for axis in (1, 2):
        side = scores_THW.shape[axis]
        place_HW = (np.arange(side) + 0.5).reshape((-1, 1) if axis == 1 else (1, -1)) / side
        centroid_T = (weight_THW * place_HW).sum((1, 2), keepdims=True) / weight_THW.sum((1, 2), keepdims=True)
        ring_THW = np.maximum(ring_THW, abs(place_HW - centroid_T.clip(half, 1 - half)))
        near_THW = near_THW + (place_HW - centroid_T) ** 2
    # Rounded: what is equally far must tie on any processor.
    keys = (near_THW.round(9).reshape(t, -1), ring_THW.round(9).reshape(t, -1))
    return _first_k(keys[1], k, keys[0], rng.random(keys[0].shape)).reshape(scores_THW.shape)


def tube(shape: Shape, k: int, rng: Rng) -> Bools:
    """Hide the same k random places in every slice (VideoMAE)."""
    t, h, w = shape
    return np.repeat(_first_k(rng.random((1, h * w)), k).reshape(1, h, w), t, axis=0)


def random(shape: Shape, k: int, rng: Rng) -> Bools:
    """Hide k * T random tokens of the whole clip, slices unequal (ST-MAE, Feichtenhofer et al. 2022)."""
    t, h, w = shape
    return _first_k(rng.random((1, t * h * w)), k * t).reshape(shape)


def optical_flow(flow_TSHW2: Floats, k: int, rng: Rng) -> Bools:
    """Leave visible what the flow carries a random visible map of the middle frame to (MGMAE, Huang et al. 2023).

    flow_TSHW2: see train/data/clip_flow.py. Of each slice the P - k tokens stay visible over which the carried map
    sums highest. Without motion this is a tube.
    """
    patches = math.prod(flow_TSHW2.shape[2:4]) // FINE**2
    sums_THW = visible_sums(flow_TSHW2, patches - k, rng)
    return _first_k(sums_THW.reshape(len(sums_THW), -1), k).reshape(sums_THW.shape)


class Mask(NamedTuple):
    """A kind of mask."""

    function: Callable[..., Bools]  # (scores, flow or shape; k; rng)
    needs: Literal["scores", "flow", "shape"]


# Named in schemas/registry.py.
TOP_K = Mask(top_k, "scores")
BOTTOM_K = Mask(bottom_k, "scores")
TUBE = Mask(tube, "shape")
RANDOM = Mask(random, "shape")
MOTION_VECTORS = Mask(motion_top_k, "scores")
MOTION_BOX = Mask(motion_box, "scores")
OPTICAL_FLOW = Mask(optical_flow, "flow")


def make_mask(
    kind: str,
    *,
    ratio: float,
    shape: Shape,
    scores: Array | None = None,
    flow: Floats | None = None,
    rng: Rng | None = None,
    share: float = 1.0,
) -> Bools:
    """A mask of a named kind, bool [T, H, W] of `shape`; hides hidden_per_slice(ratio, H*W) * T tokens.

    scores: [T, H, W] and flow: [T, S, H * FINE, W * FINE, 2] (train/data/clip_flow.py), where the kind needs them;
    share: of top-k alone.
    Errors: ValueError for an unknown kind, scores or a flow that are missing, NaN or of another shape,
    or a ratio outside (0, 1).
    """
    function, needs = MASKS[MASKS.checked(kind)]
    k = hidden_per_slice(ratio, shape[1] * shape[2])
    options = {"share": share} if kind == "top-k" else {}
    if needs == "shape":
        assert rng is not None, f"mask {kind!r} draws: hand it a numpy Generator"
        return function(shape, k, rng)
    made_of = scores if needs == "scores" else flow
    if made_of is None:
        raise ValueError(f"mask {kind!r} needs {needs}: give the run a guide that has them, or use tube or random")
    t, *sides = made_of.shape
    if needs == "flow":
        sides = [side // FINE for side in sides[1:3]]
    if (t, *sides) != shape:
        raise ValueError(f"{needs} have shape {made_of.shape}, the token grid is {shape}")
    return function(made_of, k, rng, **options)


def _part(share: float, whole: int) -> int:
    """share * whole rounded, a half upwards; the share counts as its decimal number."""
    return math.floor(Fraction(str(float(share))) * whole + Fraction(1, 2))


def _first_k(keys_NP: Array, k: int, *then: Array) -> Bools:
    """True at the k smallest keys of each row; equal keys by the keys `then` [N, P], then the lower index."""
    assert 0 <= k <= keys_NP.shape[1], f"{k} of {keys_NP.shape[1]} patches"
    chosen = np.zeros(keys_NP.shape, dtype=np.bool_)
    np.put_along_axis(chosen, np.lexsort((*reversed(then), keys_NP), axis=1)[:, :k], True, axis=1)
    return chosen


def _ranked(scores_THW: Array) -> Floats:
    """Scores as float64 [T, P]: small integers must not wrap when negated. Errors: ValueError on NaN."""
    if scores_THW.ndim != 3:
        raise ValueError(f"scores have 3 axes (time, rows, columns), these have shape {scores_THW.shape}")
    keys = scores_THW.astype(np.float64).reshape(len(scores_THW), -1)
    if np.isnan(keys).any():
        count = int(np.isnan(keys).sum())
        raise ValueError(
            f"{count} of {keys.size} scores are NaN and have no rank: rebuild the guide's map of this video"
        )
    return keys
