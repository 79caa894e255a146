"""A linear probe: how much of the labels a frozen encoder's features hold.

    python -m train probe work/demo.toml

Multinomial logistic regression on standardised features. Few people agree on how to train a probe
(published ones use LARS, SGD or AdamW with augmentation); this one is a convex problem solved to the
end by L-BFGS, so it has no schedule to tune and no seed, and the features are computed once.

Shape suffixes: S videos, D width of the features, K classes.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from schemas.atomic import replacing, write_json
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import FILE as RECORD
from schemas.stage import StageRecord, StageSpec, read_record, required_record
from schemas.workspace import Workspace
from train.checkpoint import load_weights
from train.distributed import choose_device
from train.features import extract
from train.model import PretrainModel
from train.objective import build_model, model_config
from train.pretrain import MODEL
from train.record import finish
from train.sampling import digest64
from train.specs import probe_spec
from train.videos import Videos, open_videos

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
RESULT = "probe.json"


def run_probe(experiment: Experiment) -> StageRecord:
    """Probes the pretrained encoder of the run, and the same one untrained; returns at once when it is current.

    Leaves probe.json, the features and stage.json in runs/<name>/probe.
    Errors: UserError when the run is not complete, or the labels or splits do not make a test.
    """
    started = time.perf_counter()
    spec = probe_spec(experiment)
    record = read_record(spec.folder)
    if record is not None and record.fingerprint == spec.fingerprint:
        return record
    options, run = experiment.probe, Workspace(Path(experiment.workspace)).run(experiment.name)
    _check_model(experiment, run)
    videos = open_videos(Workspace(Path(experiment.workspace)))
    videos, train = labelled_split(videos, options.train_split, options.test_split, options.test_share)
    labels = videos.column("label").astype(np.int64)
    unseen = sorted({*labels[~train].tolist()} - {*labels[train].tolist()})
    if unseen:
        print(f"probe: no training video of the classes {unseen}: their test videos count as wrong", file=sys.stderr)
    spec.folder.mkdir(parents=True, exist_ok=True)
    (spec.folder / RECORD).unlink(missing_ok=True)

    model = PretrainModel(model_config(experiment))
    model.load_state_dict(load_weights(run / MODEL))
    features = _features(model, "pretrained", experiment, spec, videos)
    classes = sorted({*labels.tolist()})
    result: dict[str, Any] = {
        "top1": accuracy(features, labels, train, options.l2),
        "top1_untrained": None,
        "chance": 1 / len(classes),
        "majority": _majority(labels, train),
        "train": int(train.sum()),
        "test": int((~train).sum()),
        "classes": len(classes),
        "classes_without_training": unseen,
    }
    if options.untrained:
        features = _features(build_model(experiment), "untrained", experiment, spec, videos)
        result["top1_untrained"] = accuracy(features, labels, train, options.l2)
    write_json(spec.folder / RESULT, result)
    counts = {name: int(result[name]) for name in ("train", "test", "classes")}
    seconds = time.perf_counter() - started
    return finish(spec, spec.folder / RESULT, counts=counts, info=result, seconds=seconds)


def labelled_split(videos: Videos, train_split: str, test_split: str, test_share: float) -> tuple[Videos, Bools]:
    """The labelled videos of the two splits, and which of them are for training, bool [S].

    Where the list names no splits at all, each class gives `test_share` of its videos, in order of their
    keys (which are hashes, so as good as random), to the test, but keeps one for training.
    Errors: UserError when there are no labels, only one class, or nothing in one of the splits.
    """
    splits = np.asarray([str(split) for split in videos.strings("split")])
    labelled = videos.column("label") >= 0
    if not labelled.any():
        raise UserError(
            f"none of the {len(videos)} videos has a label: a probe needs classes (index formats folder, csv)"
        )
    if (splits == "").all():
        videos = videos.where(labelled)
        train = ~_held_out(videos.all_keys(), videos.column("label"), test_share)
    else:
        used = labelled & ((splits == train_split) | (splits == test_split))
        train = splits[used] == train_split
        for name, found in ((train_split, train.any()), (test_split, (~train).any())):
            if not found:
                counts = ", ".join(
                    f"{split!r}: {int((splits[labelled] == split).sum())}" for split in np.unique(splits).tolist()
                )
                raise UserError(
                    f"no labelled video of the split {name!r} to probe with; there are {counts}: "
                    "set probe.train_split and probe.test_split"
                )
        videos = videos.where(used)
    if len(np.unique(videos.column("label"))) < 2:
        raise UserError(f"all {len(videos)} labelled videos are of one class: there is nothing to tell apart")
    if train.all():
        raise UserError(f"probe.test_share {test_share} of so few videos a class is none: raise it or add videos")
    return videos, train


def _held_out(keys: list[str], labels: NDArray[Any], share: float) -> Bools:
    chosen = np.zeros(len(keys), bool)
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=keys.__getitem__)
        chosen[rows[: min(int(share * len(rows) + 0.5), len(rows) - 1)]] = True
    return chosen


def accuracy(features_SD: NDArray[np.float32], labels: Ints, train: Bools, l2: float) -> float:
    """Top-1 on the videos that are not for training, of a classifier fitted on those that are."""
    x_SD = standardise(features_SD.astype(np.float64), train)
    known, target = np.unique(labels[train], return_inverse=True)
    if len(known) == 1:
        return float((labels[~train] == known[0]).mean())
    weight_KD, bias_K = fit_logistic(x_SD[train], target, l2)
    predicted = known[(x_SD[~train] @ weight_KD.T + bias_K).argmax(1)]
    return float((predicted == labels[~train]).mean())


def standardise(x_SD: Floats, train: Bools) -> Floats:
    """Mean 0 and deviation 1 on the training rows; a feature that is constant there becomes 0 everywhere."""
    mean, deviation = x_SD[train].mean(0), x_SD[train].std(0)
    varies = deviation > 1e-8 * (1 + np.abs(mean))
    return np.where(varies, (x_SD - mean) / np.where(varies, deviation, 1), 0)


def fit_logistic(x_SD: Floats, target: Ints, l2: float, *, iterations: int = 1000) -> tuple[Floats, Floats]:
    """Weights [K, D] and biases [K] that minimise mean cross-entropy + l2 / 2 * |weights|^2, float64.

    The biases are not shrunk. scikit-learn's LogisticRegression(C=1 / (l2 * S)) has the same minimum.
    """
    x, y, classes = torch.from_numpy(x_SD), torch.from_numpy(target), int(target.max()) + 1
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
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
    return weight.detach().numpy(), bias.detach().numpy()


def _majority(labels: Ints, train: Bools) -> float:
    """What always answering the training videos' most frequent class would get."""
    values, counts = np.unique(labels[train], return_counts=True)
    return float((labels[~train] == values[counts.argmax()]).mean())


def _check_model(experiment: Experiment, run: Path) -> None:
    """Refuses to load weights into the model of another config."""
    trained = required_record(run, "tgmae pretrain").config
    for name in ("clip", "model"):
        asked = getattr(experiment, name).model_dump(mode="json")
        wrong = [f"{name}.{key}" for key, value in asked.items()
                 if trained[name].get(key) != value and key != "checkpoint_activations"]  # fmt: skip
        if wrong:
            raise UserError(
                f"{run} was trained with another {', '.join(wrong)}: probe with its own {run / 'config.toml'}"
            )


def _features(
    model: PretrainModel, name: str, experiment: Experiment, spec: StageSpec, videos: Videos
) -> NDArray[np.float32]:
    """From the cache where it is of these weights, videos and views, else computed and cached."""
    options, path = experiment.probe, spec.folder / f"features-{name}.safetensors"
    rows = np.asarray([digest64(key) for key in videos.all_keys()])
    made_of = digest64(repr((sorted(spec.inputs.items()), options.views, experiment.clip, experiment.model,
                            experiment.pretrain.seed)))  # fmt: skip
    if path.is_file():
        cached = load_file(path)
        if cached["made_of"].tolist() == [made_of] and np.array_equal(cached["rows"], rows):
            return np.asarray(cached["features"], np.float32)
    features = extract(
        model.encoder, videos, experiment.clip, views=options.views, batch_size=options.batch_size,
        workers=experiment.pretrain.workers, device=choose_device(experiment.pretrain.device), title=f"probe, {name}",
    )  # fmt: skip
    with replacing(path) as partial:
        save_file({"features": features, "rows": rows, "made_of": np.asarray([made_of])}, partial)
    return features
