"""The world's axes next to its labels: what frozen features tell of how the named object moves, not in any caption."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from schemas.atomic import replacing
from schemas.config import Experiment
from schemas.workspace import Workspace
from train.data.splits import labelled_split, with_test_split
from train.data.videos import Videos, open_videos
from train.evaluation.frozen_encoder import FrozenEncoder, missing_videos
from train.probe import Task
from train.specs import probe_spec


def probe_axis(experiment: Experiment, truth: Path, axis: str = "motion") -> dict[str, float]:
    """The probe of a run with an axis of the world ("motion", "label": what is seen) in place of its labels.

    Returns AXIS, AXIS_knn, AXIS_chance, and the first two _untrained where probe.untrained is true. Reads the features
    that `tgmae probe` kept.
    """
    experiment = with_test_split(experiment, "probe")
    spec, options = probe_spec(experiment), experiment.probe
    frozen = FrozenEncoder(experiment, spec, options)
    videos, train = labelled_split(
        open_videos(Workspace(Path(experiment.workspace))), options.train_split, options.test_split, options.test_share
    )
    videos, classes = with_axis(videos, truth, axis)
    found = {f"{axis}_chance": 1 / classes}
    for suffix, untrained in (("", False), ("_untrained", True))[: 1 + options.untrained]:
        features = frozen.features(videos, untrained=untrained)
        missing = missing_videos("probe", options, videos, train, features.read_S)
        metrics = Task.of(videos, train, features, missing).metrics(options, frozen.device)[0]
        found |= {f"{axis}{suffix}": metrics["top1"], f"{axis}_knn{suffix}": metrics["top1_knn"]}
    return {name: round(value, 4) for name, value in found.items()}


def write_motions(truth: Path, file: Path) -> None:
    """A list (`index.format=csv`) of the world's videos that labels them by motion in place of what is seen."""
    plan = json.loads((truth / "world.json").read_bytes())["videos"]
    rows = ((f"{video['path']}.mp4", video["motion"], video["split"]) for video in plan)
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([("path", "label", "split"), *rows])


def with_axis(videos: Videos, truth: Path, axis: str) -> tuple[Videos, int]:
    """The videos with the number of their motion (or "label") for a label, and how many there are of these."""
    plan = json.loads((truth / "world.json").read_bytes())["videos"]
    value_of = {entry["path"]: entry[axis] for entry in plan}
    names = sorted(set(value_of.values()))
    values = [value_of[str(Path(str(video)).with_suffix(""))] for video in videos.strings("video_id")]
    labels = pa.array([names.index(value) for value in values], pa.int32())
    place = videos.clips.schema.get_field_index("label")
    return replace(videos, clips=videos.clips.set_column(place, "label", labels)), len(names)
