"""Reconstruction of videos that pretraining did not see, next to what predicting zero would cost.

Under normalised pixels (objective.norm_pixels) every patch has mean 0 and deviation 1, so predicting zero costs about 1
(less where patches are flat) and is what an encoder that learned nothing comes to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.registry import MASKS
from schemas.workspace import Workspace
from train.data.splits import with_test_split
from train.data.stream import ClipDataset, Failure, collate
from train.data.videos import open_videos
from train.models.cubes import cubes_from_clip
from train.models.losses import reconstruction_loss
from train.models.objective import Objective

BATCH = 64


@torch.inference_mode()
def held_out_reconstruction(experiment: Experiment) -> dict[str, float]:
    """`reconstruction` and `reconstruction_zero`: mean squared errors over the run's own masks of the test videos;
    `reconstruction_below_zero`: the share of these videos whose error is below predicting zero.

    One clip of each video of probe.test_split, drawn as in the last epoch.
    Errors: UserError when the run is not complete or there is no such video.
    """
    workspace, experiment = Workspace(Path(experiment.workspace)), with_test_split(experiment, "probe")
    masks_alone = experiment.objective.model_copy(update={"contrastive": 0.0, "reconstruction": 1.0})
    run = {"init": str(workspace.run(experiment.name))}
    evaluated = experiment.model_copy(
        update={"objective": masks_alone, "model": experiment.model.model_copy(update=run),
                "clip": experiment.clip.model_copy(update={"repeats": 1})}
    )  # fmt: skip
    guide = None if MASKS[experiment.mask.kind].needs == "shape" else experiment.guide_name
    videos = open_videos(workspace, guide)
    test = np.asarray([split == experiment.probe.test_split for split in videos.strings("split")], bool)
    for sidecar in videos.sidecars:
        test &= np.asarray(sidecar.table.column("maps").to_numpy() > 0)
    if not test.any():
        raise UserError(f"{workspace.clips} has no video of the split {experiment.probe.test_split!r} to reconstruct")
    objective = Objective(evaluated, None).eval()
    model, norm = objective.model, experiment.objective.norm_pixels
    dataset = ClipDataset(videos.where(test), evaluated, model.config.grid)
    errors: list[list[float]] = []  # of each video: ours, zero
    for start in range(0, len(dataset.videos), BATCH):
        rows = range(start, min(start + BATCH, len(dataset.videos)))
        batch = collate([dataset[experiment.optim.epochs - 1, row] for row in rows])
        if isinstance(batch, Failure):
            raise UserError(batch.message)
        cubes_BNK = cubes_from_clip(batch.clip_BTHWC, model.config.patch_size, model.config.tubelet)
        predicted_BM = batch.predicted_index_BM
        prediction_BMK = model.forward_split(cubes_BNK, batch.visible_index_BV, predicted_BM)[0]
        errors += [
            [float(reconstruction_loss(guess_BMK[one], cubes_BNK[one], predicted_BM[one], norm=norm))
             for guess_BMK in (prediction_BMK, torch.zeros_like(prediction_BMK))]
            for one in (slice(row, row + 1) for row in range(len(rows)))
        ]  # fmt: skip
    ours, zero = np.asarray(errors).T
    found = {"reconstruction": ours.mean(), "reconstruction_zero": zero.mean(),
             "reconstruction_below_zero": (ours < zero).mean()}  # fmt: skip
    return {name: round(float(value), 4) for name, value in found.items()}
