"""What a test leaves: every prediction, a table of the classes, the confusion of classes, and the result.

    predictions.parquet  a row a test video: label, prediction, the five best, the score of every class
    classes.parquet      a row a class: videos to train on and to test on, top1, top5
    confusion.parquet    a row a (label, prediction) that occurred: how many videos
    result.json          the numbers (train/evaluation/results.py)

Shape suffixes: S test videos, those that are not in the shards last; K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import required_record
from schemas.tables import write_table
from train.data.classes import Classes
from train.data.splits import absent_videos
from train.data.videos import Videos
from train.evaluation.accuracy import accuracies, best, confusion, top_k
from train.evaluation.predictions import Predictions
from train.evaluation.results import FILE, Checkpoint, Evaluation, Result, write_result

FILES = ("predictions.parquet", "classes.parquet", "confusion.parquet", FILE)
Ints = NDArray[np.int64]

CLASSES = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("train", pa.int32(), nullable=False),  # videos
        pa.field("test", pa.int32(), nullable=False),  # videos, those without a prediction included
        pa.field("missing", pa.int32(), nullable=False),  # test videos without a prediction
        pa.field("top1", pa.float64()),  # null: no test video counts
        pa.field("top5", pa.float64()),
    ]
)
CONFUSION = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("prediction", pa.int32(), nullable=False),
        pa.field("videos", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class TestVideos:
    """The test videos and the scores of those that were read, of which rows are a part of S."""

    keys: list[str]  # S
    video_ids: list[str]  # S
    label_S: Ints
    read_S: NDArray[np.bool_]
    absent: int  # of S: in the dataset's lists, but not in the shards

    @property
    def missing(self) -> Ints:
        """The classes of the videos without scores."""
        return self.label_S[~self.read_S]


def write(folder: Path, experiment: Experiment, classes: Classes, test: Videos, train_K: Ints,
          predictions: Predictions, *, checkpoint: Checkpoint, seconds: float) -> Result:  # fmt: skip
    """Writes all of it; train_K: training videos of each class.

    Errors: UserError when no test video could be read.
    """
    tested = _tested(experiment, test, predictions)
    if not tested.read_S.any():
        raise UserError(f"none of the {len(test)} test videos could be read: the reasons are reported above")
    probability_RP = predictions.probability_SP[predictions.read_S]
    scores_RK, label_R = classes.scores(probability_RP), tested.label_S[tested.read_S]
    counted = tested.missing if experiment.finetune.missing == "wrong" else tested.missing[:0]
    metrics = accuracies(scores_RK, label_R, counted)
    if len(classes.heads) > 1:
        for head, part in zip(classes.heads, classes.split(probability_RP), strict=True):
            found = accuracies(part, head.of_class_K[label_R], head.of_class_K[counted])
            metrics |= {f"{head.name}_{name}": found[name] for name in ("top1", "top5")}
    _write_predictions(folder / FILES[0], classes, tested, scores_RK, probability_RP)
    _write_classes(folder / FILES[1], classes, tested, scores_RK, train_K, counted)
    _write_confusion(folder / FILES[2], best(scores_RK, 1)[:, 0], label_R, len(classes))
    untrained = np.flatnonzero((train_K == 0) & (np.bincount(tested.label_S, minlength=len(classes)) > 0))
    options = experiment.finetune
    return write_result(folder, experiment, Evaluation(
        kind="finetune", checkpoint=checkpoint, metrics=metrics, seconds=seconds,
        dataset=required_record(test.workspace.clips, f"tgmae shard {test.workspace.root}").output,
        views={"sampling": options.sampling, "temporal": options.temporal_views, "spatial": options.spatial_views},
        counts={"train": int(train_K.sum()), "test": len(tested.keys), "unread": len(tested.missing) - tested.absent,
                "absent": tested.absent, "classes": len(classes), "classes_without_training": len(untrained)},
        warnings=_warnings(experiment, classes, tested, untrained),
    ))  # fmt: skip


def _tested(experiment: Experiment, test: Videos, predictions: Predictions) -> TestVideos:
    """With the labelled videos of the test split that the dataset's lists have and the shards have not."""
    keys, ids = test.all_keys(), [str(video_id) for video_id in test.strings("video_id")]
    labels = test.column("label").astype(np.int64).tolist()
    missing = absent_videos(test, experiment.finetune.test_split)
    keys += [row["key"] for row in missing]
    ids += [row["video_id"] for row in missing]
    labels += [row["label"] for row in missing]
    read_S = np.concatenate((predictions.read_S, np.zeros(len(missing), bool)))
    return TestVideos(keys, ids, np.asarray(labels, np.int64), read_S, len(missing))


def _warnings(experiment: Experiment, classes: Classes, tested: TestVideos, untrained: Ints) -> list[str]:
    warnings = []
    if len(tested.missing):
        what = {"wrong": "count as wrong", "exclude": "are left out"}[experiment.finetune.missing]
        warnings.append(
            f"{len(tested.missing)} of {len(tested.keys)} test videos {what} (finetune.missing): "
            f"{len(tested.missing) - tested.absent} could not be read, {tested.absent} are not in the shards"
        )
    if len(untrained):
        names = ", ".join(repr(classes.names[label]) for label in untrained[:5]) + ", ..." * (len(untrained) > 5)
        warnings.append(f"{len(untrained)} classes have test videos and no training video: {names}")
    return warnings


def _write_predictions(path: Path, classes: Classes, tested: TestVideos, scores_RK: NDArray[np.float32],
                       probability_RP: NDArray[np.float32]) -> None:  # fmt: skip
    five = best(scores_RK, 5)
    prediction_S = np.zeros(len(tested.keys), np.int32)
    prediction_S[tested.read_S] = five[:, 0]
    columns = {
        "key": pa.array(tested.keys, pa.string()),
        "video_id": pa.array(tested.video_ids, pa.string()),
        "label": pa.array(tested.label_S, pa.int32()),
        "prediction": pa.array(prediction_S, pa.int32(), mask=~tested.read_S),
        "top5": _lists(five.astype(np.int32), tested.read_S),
        "scores": _lists(scores_RK, tested.read_S),
    }
    if len(classes.heads) > 1:  # a class's score is the product of these
        for head, part in zip(classes.heads, classes.split(probability_RP), strict=True):
            columns[head.name] = _lists(part, tested.read_S)
    table = pa.table(columns)
    write_table(path, table, table.schema)


def _lists(rows: NDArray[np.generic], read_S: NDArray[np.bool_]) -> pa.Array:
    """A list for each video that was read, null for the others."""
    offsets = np.concatenate(([0], np.cumsum(read_S * rows.shape[1]))).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(rows).reshape(-1)), mask=pa.array(~read_S))


def _write_classes(path: Path, classes: Classes, tested: TestVideos, scores_RK: NDArray[np.float32], train_K: Ints,
                   counted: Ints) -> None:  # fmt: skip
    label_R, size = tested.label_S[tested.read_S], len(classes)
    test_K, missing_K = np.bincount(tested.label_S, minlength=size), np.bincount(tested.missing, minlength=size)
    judged_K = np.bincount(label_R, minlength=size) + np.bincount(counted, minlength=size)
    right = {k: np.bincount(label_R, weights=top_k(scores_RK, label_R, k), minlength=size) for k in (1, 5)}
    rows = [
        {"label": label, "name": name, "train": train_K[label], "test": test_K[label], "missing": missing_K[label],
         **{f"top{k}": right[k][label] / judged_K[label] if judged_K[label] else None for k in right}}
        for label, name in enumerate(classes.names)
    ]  # fmt: skip
    write_table(path, rows, CLASSES)


def _write_confusion(path: Path, predicted_R: Ints, label_R: Ints, classes: int) -> None:
    counts_KK = confusion(predicted_R, label_R, classes)
    rows = [{"label": i, "prediction": j, "videos": counts_KK[i, j]} for i, j in np.argwhere(counts_KK).tolist()]
    write_table(path, rows, CONFUSION)
