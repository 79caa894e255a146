"""Probes: how much of the labels a frozen encoder's features hold.

    python -m train probe work/demo.toml

Three classifiers on the same features: logistic regression solved to convergence (`top1`) and MAE's linear layer
trained by SGD (`top1_sgd`), both in train/evaluation/linear.py, and weighted k nearest neighbours (`top1_knn`,
train/evaluation/neighbours.py).

Shape suffixes: S videos, R of them read and for training, Q read and for the test, D width of the features, K classes
with training videos.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.atomic import write_json
from schemas.config import Experiment, Probe
from schemas.foreign_text import shown
from schemas.replacement import rebuilding
from schemas.stage import StageRecord, current_record
from schemas.workspace import Workspace
from train.data.splits import Bools, labelled_split, recordings, with_test_split
from train.data.videos import Videos, open_videos
from train.engine.record import finish
from train.evaluation.accuracy import accuracies
from train.evaluation.frozen_encoder import FrozenEncoder, Missing, missing_videos
from train.evaluation.linear import Sweep, choose_lr, fit_logistic, fit_steps, standardise, step_scores
from train.evaluation.neighbours import nearest, votes
from train.evaluation.results import FILE as RESULT
from train.evaluation.results import Evaluation, write_result
from train.evaluation.video_features import Features
from train.specs import probe_spec

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
FILES = ("probe.json", RESULT)
METHODS = {"": "linear probe, L-BFGS", "_sgd": "linear probe, SGD", "_knn": "k nearest neighbours"}


def run_probe(experiment: Experiment) -> StageRecord:
    """Probes the encoder that the experiment judges, and the same one untrained; returns at once when it is current.

    Leaves probe.json, result.json and stage.json in runs/<name>/probe, the features in runs/<name>/features.
    Errors: UserError when there are no weights, or the labels or splits do not make a test.
    """
    started = time.perf_counter()
    experiment = with_test_split(experiment, "probe")
    spec, options = probe_spec(experiment), experiment.probe
    record = current_record(spec)
    if record is not None:
        return record
    frozen = FrozenEncoder(experiment, spec, options)
    videos = open_videos(Workspace(Path(experiment.workspace)))
    videos, train = labelled_split(videos, options.train_split, options.test_split, options.test_share)
    features = frozen.features(videos)
    missing = missing_videos("probe", options, videos, train, features.read_S)
    group_S = recordings(videos, experiment.retrieve.group)
    task = Task.of(videos, train, features, missing, group_S)
    metrics, sweep = task.metrics(options, frozen.device)
    if options.untrained:
        others = frozen.features(videos, untrained=True)
        again = Task.of(videos, train, others, missing_videos("probe", options, videos, train, others.read_S), group_S)
        metrics |= {f"{name}_untrained": value for name, value in again.metrics(options, frozen.device)[0].items()}
    counts = {
        "train": int(train.sum()), "test": int((~train).sum()) + missing.counts["absent"], "classes": task.classes,
        "classes_without_training": len(task.unseen), **missing.counts,
    }  # fmt: skip
    metrics |= {"chance": 1 / task.classes, "majority": task.majority}
    warnings = [*missing.warnings, *task.warnings(options), *_sweep_warnings(sweep, options)]
    for text in warnings:
        print(f"probe: {shown(text)}", file=sys.stderr)
    for suffix, method in METHODS.items():
        print(f"probe: {method}, top-1 {metrics[f'top1{suffix}']:.4f}", file=sys.stderr)

    # A reader of this file finds the untrained encoder's top-1 or null, whatever was asked for.
    result: dict[str, Any] = {"top1_untrained": None, **metrics, **counts, "warnings": warnings} | {
        "classes_without_training": task.unseen, "base_lr": sweep.base_lr,
        "base_lr_held_out": {str(rate): top1 for rate, top1 in sweep.top1.items()},
    }  # fmt: skip
    seconds = time.perf_counter() - started
    with rebuilding(spec.folder) as folder:
        write_json(folder / FILES[0], result)
        write_result(folder, experiment, Evaluation(
            kind="probe", dataset=spec.inputs["clips"], counts=counts, seconds=seconds,
            checkpoint=frozen.checkpoint, metrics=metrics, views=frozen.views, warnings=warnings,
        ))  # fmt: skip
        return finish(spec, folder / FILES[0], files=FILES, counts=counts, info=result, seconds=seconds)


@dataclass(frozen=True)
class Task:
    """Features to learn from and to be judged by. Classes are numbered, those with training videos first."""

    train_RD: Floats
    target_R: Ints
    keys_R: list[str]
    group_R: Ints | None  # of their recordings; None: each its own
    test_QD: Floats
    label_Q: Ints
    wrong: Ints  # classes of the test videos that are wrong whatever is learnt
    classes: int  # of all videos
    unseen: list[int]  # labels of the classes with test videos and no training video

    @classmethod
    def of(
        cls, videos: Videos, train: Bools, features: Features, missing: Missing, group_S: Ints | None = None
    ) -> "Task":
        label_S = videos.column("label").astype(np.int64)
        learnt, asked = train & features.read_S, ~train & features.read_S
        known = np.unique(label_S[learnt])
        others = np.setdiff1d(np.concatenate((label_S, missing.wrong)), known)
        order = {label: place for place, label in enumerate([*known.tolist(), *others.tolist()])}

        def number(labels: Ints) -> Ints:
            return np.asarray([order[label] for label in labels.tolist()], np.int64)

        seen = asked & np.isin(label_S, known)
        return cls(
            train_RD=features.features_SD[learnt], target_R=number(label_S[learnt]),
            keys_R=[key for key, chosen in zip(videos.all_keys(), learnt, strict=True) if chosen],
            group_R=None if group_S is None else group_S[learnt],
            test_QD=features.features_SD[seen], label_Q=number(label_S[seen]),
            wrong=number(np.concatenate((label_S[asked & ~seen], missing.wrong))), classes=len(order),
            unseen=np.setdiff1d(np.concatenate((label_S[~train], missing.wrong)), known).tolist(),
        )  # fmt: skip

    @property
    def majority(self) -> float:
        """What always answering the training videos' most frequent class would get."""
        frequent = np.bincount(self.target_R).argmax()
        return float((np.concatenate((self.label_Q, self.wrong)) == frequent).mean())

    def warnings(self, options: Probe) -> list[str]:
        found = []
        if self.unseen:
            found.append(f"no training video of the classes {self.unseen}: their test videos count as wrong")
        if len(self.target_R) < options.neighbours:
            found.append(
                f"k-NN takes all {len(self.target_R)} training videos, for probe.neighbours is {options.neighbours}"
            )
        return found

    def metrics(self, options: Probe, device: torch.device) -> tuple[dict[str, float], Sweep]:
        """top1, top5 and mean_class of each of METHODS by their suffixes, and how the learning rate was chosen."""
        known = int(self.target_R.max()) + 1
        sweep = Sweep(options.linear.base_lr[0], {}, 0)
        if known == 1 or not len(self.label_Q):  # nothing to learn, or nobody to ask
            scores = dict.fromkeys(METHODS, np.zeros((len(self.label_Q), known), np.float32))
        else:
            sweep = choose_lr(self.train_RD, self.target_R, self.keys_R, options.linear, device, self.group_R)
            model = fit_steps(self.train_RD, self.target_R, options.linear, sweep.base_lr, device)
            found = nearest(self.test_QD, self.train_RD, options.neighbours, chunk=options.chunk, device=device)
            scores = {
                "": self._logistic(options.l2, device),
                "_sgd": step_scores(model, self.test_QD, device),
                "_knn": votes(found, self.target_R, known, options.temperature),
            }
        metrics = {
            f"{name}{suffix}": value
            for suffix, scores_QK in scores.items()
            for name, value in accuracies(scores_QK, self.label_Q, self.wrong).items()
        }
        return metrics, sweep

    def _logistic(self, l2: float, device: torch.device) -> Floats:
        both = np.concatenate((self.train_RD, self.test_QD)).astype(np.float64)
        learnt = np.arange(len(both)) < len(self.train_RD)
        x_SD = standardise(both, learnt)
        weight_KD, bias_K = fit_logistic(x_SD[learnt], self.target_R, l2, device=device)
        return np.asarray(x_SD[~learnt] @ weight_KD.T + bias_K, np.float32)


def _sweep_warnings(sweep: Sweep, options: Probe) -> list[str]:
    tried = ", ".join(map(str, options.linear.base_lr))
    if sweep.top1:
        return [f"base_lr {sweep.base_lr} is the best of {tried} on {sweep.held_out} held-out training videos"]
    if len(options.linear.base_lr) > 1:
        return [f"too few training videos to choose a base_lr of {tried} by: {sweep.base_lr} is taken"]
    return []
