"""The second axis: the label of a video becomes its motion."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.train.conftest import write_workspace
from tgmae.demo.truth_labels import with_axis, write_motions
from train.data.videos import open_videos


def test_labels_become_motions_video_by_video(tmp_path: Path) -> None:
    videos = open_videos(write_workspace(tmp_path / "work", videos=6))
    paths = [str(Path(str(video)).with_suffix("")) for video in videos.strings("video_id")]
    motions = ["still", "circling", "still", "sliding", "circling", "still"]
    plan = [{"path": path, "motion": motion} for path, motion in zip(paths, motions, strict=True)]
    (tmp_path / "world.json").write_text(json.dumps({"videos": plan[::-1]}))  # in any order
    changed, count = with_axis(videos, tmp_path, "motion")
    assert count == 3
    assert changed.column("label").tolist() == [2, 0, 2, 1, 0, 2]  # by name
    assert changed.all_keys() == videos.all_keys() and videos.column("label").tolist() == [0, 1, 0, 1, 0, 1]
    (tmp_path / "world.json").write_text(json.dumps({"videos": plan[1:]}))
    with pytest.raises(KeyError):
        with_axis(videos, tmp_path, "motion")


def test_the_list_of_motions_names_every_video_s_file_and_split(tmp_path: Path) -> None:
    plan = [
        {"path": "train/star/00000", "motion": "circling", "split": "train", "label": "star"},
        {"path": "test/ring/00001", "motion": "standing still", "split": "test", "label": "ring"},
    ]
    (tmp_path / "world.json").write_text(json.dumps({"videos": plan}))
    write_motions(tmp_path, tmp_path / "motions.csv")
    with (tmp_path / "motions.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"path": "train/star/00000.mp4", "label": "circling", "split": "train"},
            {"path": "test/ring/00001.mp4", "label": "standing still", "split": "test"},
        ]
