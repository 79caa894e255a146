"""How well text masks find what the caption names, where the truth is known: the embedded world.

Shapes: T frames of a clip, T' time slices, h x w the token grid.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.world.truth import load_truth
from schemas.config import Experiment
from tgmae.demo.clip_views import Array, View, guided_views, token_grid
from train.data.augment import resample_map
from train.data.sampling import generator
from train.data.splits import with_test_split
from train.masking.masks import hidden_per_slice, top_k


def compare_masks(experiment: Experiment, truth: Path) -> dict[str, float]:
    """Text masks next to random ones: means over the test videos, their captions and time slices.

    mask_iou: IoU of the k patches of a time slice that score highest with the k patches that the named
    object covers by at least half; mask_iou_random: the same for k random patches. object_masked: share of
    the object's patches among those hidden at mask.ratio; object_masked_random: with a random mask.
    """
    grid = token_grid(experiment)
    hidden = hidden_per_slice(experiment.mask.ratio, grid[1] * grid[2])
    found: dict[str, list[float]] = {}
    for view in guided_views(experiment):
        if view.meta.split != "test":
            continue  # the world's models have not seen these videos, nor has pretraining
        object_THW = object_patches(view, truth, grid)
        if not object_THW.any():
            continue
        rng = generator(0, view.key, "random mask")
        for text_THW in view.scores_CTHW:
            for suffix, map_THW in (("", text_THW), ("_random", rng.random(grid))):
                found.setdefault("mask_iou" + suffix, []).append(object_iou(map_THW, object_THW))
                masked = float(top_k(map_THW, hidden)[object_THW].mean())
                found.setdefault("object_masked" + suffix, []).append(masked)
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


def hidden_of_object(experiment: Experiment, truth: Path) -> float:
    """The share of the named object's patches that the run's own masks (ratio, text_share) hide: test videos' mean."""
    experiment = with_test_split(experiment, "probe")
    grid, mask = token_grid(experiment), experiment.mask
    hidden, values = hidden_per_slice(mask.ratio, grid[1] * grid[2]), []
    for view in guided_views(experiment):
        object_THW = object_patches(view, truth, grid)
        if view.meta.split != experiment.probe.test_split or not object_THW.any():
            continue
        for entry, map_THW in enumerate(view.scores_CTHW):
            rng = generator(0, view.key, entry, "own mask")
            hidden_THW = top_k(map_THW, hidden, rng, mask.text_share[1])
            values.append(float(hidden_THW[object_THW].mean()))
    return round(float(np.mean(values)), 4)


def object_patches(view: View, truth: Path, grid: tuple[int, int, int]) -> NDArray[np.bool_]:
    """bool [T', h, w]: the patches of a clip that the named object covers by at least half."""
    visible_THW = load_truth((truth / view.meta.video_id).with_suffix(".npz"))[view.frames_T].astype(np.float64)
    covered_THW = resample_map(visible_THW, view.crop, grid[1:])
    return np.asarray(covered_THW.reshape(grid[0], -1, *grid[1:]).mean(axis=1) >= 0.5)


def object_iou(map_THW: Array, object_THW: NDArray[np.bool_]) -> float:
    """Mean over the time slices in which the object covers a patch, as many patches taken as it covers."""
    values = []
    for map_HW, object_HW in zip(map_THW, object_THW, strict=True):
        if object_HW.any():
            chosen_HW = top_k(map_HW[None], int(object_HW.sum()))[0]
            values.append((chosen_HW & object_HW).sum() / (chosen_HW | object_HW).sum())
    return float(np.mean(values))
