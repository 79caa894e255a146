"""Linear classifiers on features: logistic regression solved to the end, and MAE's, by SGD.

Published probes differ in how they are trained (recipes: LARS, SGD or AdamW, with augmentation or without). The first
is a convex problem with one answer, without a schedule or a seed; the second is there to compare with the literature.

Shape suffixes: S videos, R of them to learn from, D width of the features, K classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.config import Linear
from train.data.sampling import generator
from train.data.splits import held_out
from train.engine.optim import lr_at, scaled_lr, set_lr

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Ints = NDArray[np.int64]


def standardise(x_SD: Floats, train: NDArray[np.bool_]) -> Floats:
    """Mean 0 and deviation 1 on the training rows; a feature that is constant there becomes 0 everywhere."""
    mean, deviation = x_SD[train].mean(0), x_SD[train].std(0)
    varies = deviation > 1e-8 * (1 + np.abs(mean))
    return np.where(varies, (x_SD - mean) / np.where(varies, deviation, 1), 0)


def fit_logistic(
    x_RD: Floats, target: Ints, l2: float, *, iterations: int = 1000, device: torch.device | None = None
) -> tuple[Floats, Floats]:
    """Weights [K, D] and biases [K] that minimise mean cross-entropy + l2 / 2 * |weights|^2, float64, by L-BFGS.

    The biases are not shrunk. scikit-learn's LogisticRegression(C=1 / (l2 * R)) has the same minimum.
    """
    x, y = torch.from_numpy(x_RD).to(device), torch.from_numpy(target).to(device)
    classes = int(target.max()) + 1
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, device=device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, max_eval=2 * iterations, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=1e-7, tolerance_change=1e-12,
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return weight.detach().cpu().numpy(), bias.detach().cpu().numpy()


def fit_steps(
    x_RD: Features, target: Ints, options: Linear, base_lr: float, device: torch.device
) -> nn.Sequential:  # fmt: skip
    """MAE's linear probe (main_linprobe.py) on features computed beforehand: batch norm without affine, a linear
    layer.

    As MAE's: LARS that adapts weights but not biases, lr = base_lr * batch / 256, linear warm-up and half a cosine to
    0, batch norm by the batch, the rest of an epoch dropped. Unlike it, features are not augmented, and for the test
    the norm takes the mean of all its batches, not a running one, which a few updates would leave at its start.
    Deterministic: a function of its arguments. R is at least 2.
    """
    batch = min(options.batch_size, len(x_RD))
    per_epoch = len(x_RD) // batch
    total, warmup = options.epochs * per_epoch, round(options.warmup_epochs * per_epoch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        layer = nn.Linear(x_RD.shape[1], int(target.max()) + 1)
        nn.init.trunc_normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    model = nn.Sequential(nn.BatchNorm1d(x_RD.shape[1], affine=False, eps=1e-6, momentum=None), layer).to(device)
    optimizer = _optimizer(layer, options)
    x, y = torch.from_numpy(x_RD).to(device), torch.from_numpy(target).to(device)
    for step in range(total):
        epoch, number = divmod(step, per_epoch)
        if number == 0:
            order = torch.from_numpy(generator(options.seed, epoch, "linear").permutation(len(x_RD))).to(device)
        rows = order[number * batch : (number + 1) * batch]
        set_lr(optimizer, lr_at(step, base=scaled_lr(base_lr, batch), warmup=warmup, total=total))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


def _optimizer(layer: nn.Linear, options: Linear) -> torch.optim.Optimizer:
    lars = {"always_adapt": True} if options.optimizer == "lars" else {}
    groups = [
        {"params": [layer.weight], "weight_decay": options.weight_decay, **lars},
        {"params": [layer.bias], "weight_decay": 0.0},
    ]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups)
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=options.momentum)
    from timm.optim import Lars  # a second to import, and only this choice needs it

    return Lars(groups, lr=0.0, momentum=options.momentum)


def step_scores(model: nn.Sequential, x_SD: Features, device: torch.device) -> Features:
    """Scores of the classes, float32 [S, K]."""
    with torch.inference_mode():
        scores: Features = model(torch.from_numpy(x_SD).to(device)).cpu().numpy()
    return scores


@dataclass(frozen=True)
class Sweep:
    """Which base learning rate was taken, and why."""

    base_lr: float
    top1: dict[float, float]  # of each that was tried, on the held-out training videos; empty: there was no choice
    held_out: int  # training videos


def choose_lr(
    x_RD: Features, target: Ints, keys: list[str], options: Linear, device: torch.device, group: Ints | None = None
) -> Sweep:
    """The best of options.base_lr on a part of the training videos, of equally good ones the first; no test video
    has a say. One rate alone is taken as it is, and the first where the classes are too small to give any video.
    group: as of held_out(), so that no recording is on both sides."""
    held = held_out(keys, target, options.held_out, group)
    if len(options.base_lr) == 1 or not held.any():
        return Sweep(options.base_lr[0], {}, 0)
    top1 = {}
    for rate in options.base_lr:
        model = fit_steps(x_RD[~held], target[~held], options, rate, device)
        top1[rate] = float((step_scores(model, x_RD[held], device).argmax(1) == target[held]).mean())
    return Sweep(max(top1, key=top1.__getitem__), top1, int(held.sum()))
