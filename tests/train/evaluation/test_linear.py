"""The two linear classifiers: the one against scikit-learn's, the other against MAE's recipe written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from schemas.config import Linear
from train.data.sampling import generator
from train.evaluation.linear import choose_lr, fit_logistic, fit_steps, standardise, step_scores

CPU = torch.device("cpu")
Array = np.ndarray[Any, Any]


def blobs(samples: int, width: int, classes: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    centres = rng.normal(size=(classes, width))
    return centres[labels] + rng.normal(size=(samples, width)), labels.astype(np.int64)


def linear(**changes: Any) -> Linear:
    return Linear.model_validate({"epochs": 20, "warmup_epochs": 2, "batch_size": 64, **changes})


@pytest.mark.parametrize(
    ("samples", "width", "classes", "l2"), [(200, 5, 3, 1e-2), (60, 40, 4, 1e-3), (300, 8, 2, 0.5)]
)
def test_the_logistic_regression_is_scikit_learns(samples: int, width: int, classes: int, l2: float) -> None:
    x, y = blobs(samples, width, classes, seed=samples)
    weight, bias = fit_logistic(x, y, l2)
    theirs = LogisticRegression(C=1 / (l2 * samples), tol=1e-10, max_iter=10_000).fit(x, y)
    logits = x @ weight.T + bias
    ours = np.exp(logits - logits.max(1, keepdims=True))
    ours /= ours.sum(1, keepdims=True)
    if classes > 2:  # of two classes scikit-learn shrinks one vector, not two opposite ones
        np.testing.assert_allclose(ours, theirs.predict_proba(x), atol=2e-4)
        np.testing.assert_allclose(weight, theirs.coef_, atol=2e-3)
    else:
        theirs = LogisticRegression(C=2 / (l2 * samples), tol=1e-10, max_iter=10_000).fit(x, y)
        np.testing.assert_allclose(ours, theirs.predict_proba(x), atol=2e-4)


def test_standardising_uses_training_rows_and_bears_constants() -> None:
    x = np.array([[1.0, 5, 1], [3, 5, 2], [100, 7, 3]])
    z = standardise(x, np.array([True, True, False]))
    np.testing.assert_allclose(z[:2, 0], [-1, 1])
    assert (z[:, 1] == 0).all() and np.isfinite(z).all()


def mae_by_hand(x: Array, y: Array, options: Linear, base_lr: float, start: torch.nn.Linear) -> tuple[Array, Array]:
    """MAE's LARS (its util/lars.py) and schedule (util/lr_sched.py), step by step, in float64."""
    weight, bias = (p.detach().double().clone().requires_grad_() for p in (start.weight, start.bias))
    momenta = [torch.zeros_like(weight), torch.zeros_like(bias)]
    batch = min(options.batch_size, len(x))
    per_epoch = len(x) // batch
    peak = base_lr * batch / 256
    for epoch in range(options.epochs):
        order = generator(options.seed, epoch, "linear").permutation(len(x))
        for number in range(per_epoch):
            rows = order[number * batch : (number + 1) * batch]
            step, total, warmup = (
                epoch * per_epoch + number,
                options.epochs * per_epoch,
                options.warmup_epochs * per_epoch,
            )
            if step < warmup:
                lr = peak * step / (warmup - 1)
            else:
                lr = peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
            part = torch.from_numpy(x[rows]).double()
            normed = (part - part.mean(0)) / (part.var(0, unbiased=False) + 1e-6).sqrt()
            loss = F.cross_entropy(normed @ weight.T + bias, torch.from_numpy(y[rows]))
            grads = torch.autograd.grad(loss, (weight, bias))
            with torch.no_grad():
                for p, grad, momentum in zip((weight, bias), grads, momenta, strict=True):
                    if p.ndim > 1:
                        grad = grad * 0.001 * p.norm() / grad.norm()
                    momentum.mul_(options.momentum).add_(grad)
                    p -= lr * momentum
    return weight.detach().numpy(), bias.detach().numpy()


@pytest.mark.parametrize("batch", [32, 1000])
def test_the_steps_are_maes(batch: int) -> None:
    x, y = blobs(150, 6, 3, seed=3)
    options = linear(batch_size=batch)
    untrained = fit_steps(
        x.astype(np.float32), y, options.model_copy(update={"epochs": 1, "warmup_epochs": 1}), 1e-9, CPU
    )
    weight, bias = mae_by_hand(x.astype(np.float32), y, options, 20.0, untrained[1])
    trained = fit_steps(x.astype(np.float32), y, options, 20.0, CPU)[1]
    assert np.abs(weight - untrained[1].weight.detach().numpy()).max() > 0.005  # it went somewhere
    np.testing.assert_allclose(trained.weight.detach().numpy(), weight, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(trained.bias.detach().numpy(), bias, rtol=1e-3, atol=1e-5)


def test_the_test_s_norm_is_that_of_the_training_set() -> None:
    x, y = blobs(128, 6, 3, seed=3)
    norm = fit_steps(x.astype(np.float32), y, linear(batch_size=128), 1.0, CPU)[0]
    np.testing.assert_allclose(norm.running_mean, x.mean(0), atol=1e-5)
    np.testing.assert_allclose(norm.running_var, x.var(0, ddof=1), atol=1e-4)


@pytest.mark.parametrize(("optimizer", "rate"), [("lars", 30.0), ("sgd", 1.0), ("adamw", 0.05)])
def test_it_learns_what_the_regression_learns_and_is_repeatable(optimizer: str, rate: float) -> None:
    x, y = blobs(600, 10, 4, seed=1)
    train, test = slice(0, 400), slice(400, 600)
    options = linear(optimizer=optimizer, epochs=60)
    torch.manual_seed(0)
    model = fit_steps(x[train].astype(np.float32), y[train], options, rate, CPU)
    scores = step_scores(model, x[test].astype(np.float32), CPU)
    theirs = LogisticRegression(max_iter=10_000).fit(x[train], y[train]).score(x[test], y[test])
    assert scores.argmax(1).shape == (200,) and (scores.argmax(1) == y[test]).mean() >= theirs - 0.03 > 0.8
    state = torch.random.get_rng_state()
    again = fit_steps(x[train].astype(np.float32), y[train], options, rate, CPU)
    assert torch.equal(again[1].weight, model[1].weight) and torch.equal(torch.random.get_rng_state(), state)
    other = fit_steps(x[train].astype(np.float32), y[train], options.model_copy(update={"seed": 1}), rate, CPU)
    assert not torch.equal(other[1].weight, model[1].weight)


def test_the_rate_is_chosen_on_held_out_training_videos() -> None:
    x, y = blobs(200, 10, 4, seed=2)
    keys = [f"{row:03d}" for row in range(200)]
    options = linear(base_lr=[1e-6, 30.0, 30.0001], held_out=0.25)
    chosen = choose_lr(x.astype(np.float32), y, keys, options, CPU)
    held = np.zeros(200, bool)
    for label in range(4):
        of_class = np.flatnonzero(y == label)
        held[of_class[: round(0.25 * len(of_class) + 1e-9)]] = True
    assert chosen.held_out == held.sum() and set(chosen.top1) == set(options.base_lr)
    model = fit_steps(x[~held].astype(np.float32), y[~held], options, 30.0, CPU)
    predicted = step_scores(model, x[held].astype(np.float32), CPU).argmax(1)
    assert chosen.top1[30.0] == (predicted == y[held]).mean() > chosen.top1[1e-6]
    assert chosen.base_lr == max(chosen.top1, key=lambda rate: (chosen.top1[rate], -rate))


def test_one_rate_or_too_few_videos_leave_no_choice() -> None:
    x, y = blobs(8, 3, 2, seed=0)
    keys = list(map(str, range(8)))
    assert choose_lr(x.astype(np.float32), y, keys, linear(base_lr=[3.0]), CPU).top1 == {}
    few = choose_lr(x[:4].astype(np.float32), np.array([0, 0, 1, 1]), keys[:4], linear(base_lr=[3.0, 1.0]), CPU)
    assert few.base_lr == 3 and few.top1 == {} and few.held_out == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_lr": []}, "name one learning rate"),
        ({"epochs": 1, "warmup_epochs": 2}, "more than epochs"),
        ({"batch_size": 1}, "batch_size"),
    ],
)
def test_what_cannot_be_trained_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear(**wrong)
