"""Masks from score maps or chance: numpy, one clip at a time, True = hidden (paper equation 2).

Every mask of one kind, ratio and shape hides the same number of tokens, which batching needs
(train/model.py). Score masks hide the same number in every time slice, as paper section 3.3
does in every frame. Ties go to the lower index, so a mask is a function of its scores alone.

Shape suffixes: T time slices (tubelets), H rows, W columns of the token grid; P = H*W.
"""

import difflib
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Shape = tuple[int, int, int]


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
    k = math.floor(Fraction(str(float(ratio))) * patches + Fraction(1, 2))
    return min(max(k, 1), patches - 1)


def _first_k(keys_NP: NDArray[Any], k: int) -> Bools:
    """True at the k smallest keys of each row; equal keys: the lower index first."""
    assert 0 <= k <= keys_NP.shape[1], f"{k} of {keys_NP.shape[1]} patches"
    chosen = np.zeros(keys_NP.shape, dtype=np.bool_)
    np.put_along_axis(chosen, np.argsort(keys_NP, axis=1, kind="stable")[:, :k], True, axis=1)
    return chosen


def _sort_keys(scores_THW: NDArray[Any]) -> NDArray[np.float64]:
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


def top_k(scores_THW: NDArray[Any], k: int) -> Bools:
    """Hide the k highest scores of every slice: text-guided masking (paper section 3.3)."""
    return _first_k(-_sort_keys(scores_THW), k).reshape(scores_THW.shape)


def bottom_k(scores_THW: NDArray[Any], k: int) -> Bools:
    """Hide the k lowest scores of every slice (the paper's ablation of the direction)."""
    return _first_k(_sort_keys(scores_THW), k).reshape(scores_THW.shape)


def tube(rng: np.random.Generator, shape: Shape, k: int) -> Bools:
    """Hide the same k random places in every slice (VideoMAE)."""
    t, h, w = shape
    return np.repeat(_first_k(rng.random((1, h * w)), k).reshape(1, h, w), t, axis=0)


def random(rng: np.random.Generator, shape: Shape, k: int) -> Bools:
    """Hide k * T random tokens of the whole clip, slices unequal (ST-MAE, Feichtenhofer et al. 2022)."""
    t, h, w = shape
    return _first_k(rng.random((1, t * h * w)), k * t).reshape(shape)


class Mask(NamedTuple):
    """A kind of mask: function(scores, k) if needs_scores, else function(rng, shape, k)."""

    function: Callable[..., Bools]
    needs_scores: bool


MASKS: dict[str, Mask] = {
    "top-k": Mask(top_k, needs_scores=True),
    "bottom-k": Mask(bottom_k, needs_scores=True),
    "tube": Mask(tube, needs_scores=False),
    "random": Mask(random, needs_scores=False),
}


def make_mask(
    kind: str,
    *,
    ratio: float,
    shape: Shape,
    scores: NDArray[Any] | None = None,
    rng: np.random.Generator | None = None,
) -> Bools:
    """A mask of a named kind, bool [T, H, W] of `shape`; hides hidden_per_slice(ratio, H*W) * T tokens.

    scores: [T, H, W], needed by the score masks and ignored by the others; rng the reverse.
    Errors: ValueError for an unknown kind, scores that are missing, NaN or of another shape, or
    a ratio outside (0, 1).
    """
    if kind not in MASKS:
        near = difflib.get_close_matches(kind, MASKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no mask {kind!r}: the masks are {', '.join(MASKS)}{hint}")
    mask = MASKS[kind]
    k = hidden_per_slice(ratio, shape[1] * shape[2])
    if not mask.needs_scores:
        assert rng is not None, f"mask {kind!r} draws: hand it a numpy Generator"
        return mask.function(rng, shape, k)
    if scores is None:
        raise ValueError(f"mask {kind!r} ranks patches by score: give the run a guide, or use tube or random")
    if scores.shape != shape:
        raise ValueError(f"scores have shape {scores.shape}, the token grid is {shape}")
    return mask.function(scores, k)
