"""The world's second axis: what a run's frozen features tell of how the named object moves, which no caption says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from schemas.config import Experiment
from schemas.workspace import Workspace
from train.data.splits import labelled_split, with_test_split
from train.data.videos import Videos, open_videos
from train.evaluation.frozen_encoder import FrozenEncoder, missing_videos
from train.probe import Task
from train.specs import probe_spec


def probe_motion(experiment: Experiment, truth: Path) -> dict[str, float]:
    """The probe of a run with motions in place of labels: `motion`, `motion_knn`, `motion_chance`, and
    the first two `_untrained` where probe.untrained is true. Reads the features that `tgmae probe` kept.
    """
    experiment = with_test_split(experiment, "probe")
    spec, options = probe_spec(experiment), experiment.probe
    frozen = FrozenEncoder(experiment, spec, options)
    videos, train = labelled_split(
        open_videos(Workspace(Path(experiment.workspace))), options.train_split, options.test_split, options.test_share
    )
    videos, motions = with_motions(videos, truth)
    found = {"motion_chance": 1 / motions}
    for suffix, untrained in (("", False), ("_untrained", True))[: 1 + options.untrained]:
        features = frozen.features(videos, untrained=untrained)
        missing = missing_videos("probe", options, videos, train, features.read_S)
        metrics = Task.of(videos, train, features, missing).metrics(options, frozen.device)[0]
        found |= {f"motion{suffix}": metrics["top1"], f"motion_knn{suffix}": metrics["top1_knn"]}
    return {name: round(value, 4) for name, value in found.items()}


def with_motions(videos: Videos, truth: Path) -> tuple[Videos, int]:
    """The videos with their motion's number for a label, and how many motions there are."""
    plan = json.loads((truth / "world.json").read_bytes())["videos"]
    motion_of = {entry["path"]: entry["motion"] for entry in plan}
    names = sorted(set(motion_of.values()))
    said = [motion_of[str(Path(str(video)).with_suffix(""))] for video in videos.strings("video_id")]
    labels = pa.array([names.index(motion) for motion in said], pa.int32())
    place = videos.clips.schema.get_field_index("label")
    return replace(videos, clips=videos.clips.set_column(place, "label", labels)), len(names)
