"""The world on disk: layout, resumption, equal bytes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.world import load_truth
from pipeline.world.scene import MOTIONS, render, sample_scene
from pipeline.world.shapes import SHAPES
from pipeline.world.write import decode_mp4, write_world
from schemas.errors import UserError

SMALL = {"videos": 10, "seed": 5, "test_share": 0.2, "size": 64, "frames": 8, "fps": 8}


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    write_world(out, **SMALL, workers=1)
    return out


def test_folders_are_classes(world):
    described = json.loads((world / "truth" / "world.json").read_text())
    assert described["arguments"]["seed"] == 5
    assert [video["split"] for video in described["videos"]] == ["train"] * 8 + ["test"] * 2
    for video in described["videos"]:
        split, label, name = video["path"].split("/")
        assert label == video["label"] == list(SHAPES)[video["index"] % 6]
        assert video["motion"] == MOTIONS[video["index"] // 6]
        assert (world / split / label / f"{name}.mp4").is_file()
        assert video["caption"] == f"a {video['colour']} {label}"
    assert {path.name for path in world.iterdir()} == {"train", "test", "truth"}
    assert not list(world.rglob("*.tmp"))


def test_truth_is_the_mask_of_what_the_video_shows(world):
    for video in json.loads((world / "truth" / "world.json").read_text())["videos"]:
        frames, ids = render(sample_scene(5, video["index"], size=64, frames=8))
        mask = load_truth(world / "truth" / f"{video['path']}.npz")
        assert mask.dtype == bool
        assert np.array_equal(mask, ids == 1)
        decoded = decode_mp4(world / f"{video['path']}.mp4")
        assert decoded.shape == frames.shape
        assert np.abs(decoded.astype(int) - frames).mean() < 12  # the codec's loss, mostly of colour detail


def test_processes_and_order_leave_the_bytes_alone(world, tmp_path):
    write_world(tmp_path, **SMALL, workers=2)
    assert digest(tmp_path) == digest(world)


def test_a_second_call_makes_only_what_is_missing(tmp_path):
    write_world(tmp_path, **SMALL, workers=1)
    before = digest(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    lost = min(tmp_path.glob("truth/train/*/*.npz"))
    lost.unlink()  # as after a kill between the video and its truth
    write_world(tmp_path, **SMALL, workers=1)
    assert digest(tmp_path) == before
    changed = {path.stem for path, then in times.items() if path.stat().st_mtime_ns != then}
    assert changed == {lost.stem}


def test_another_world_in_the_same_folder_is_refused(world):
    before = digest(world)
    with pytest.raises(UserError, match="another world"):
        write_world(world, **{**SMALL, "seed": 6}, workers=1)
    assert digest(world) == before
