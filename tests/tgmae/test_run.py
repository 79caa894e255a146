"""The main job, end to end, by the commands a user types."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from schemas.shards import npy_array
from schemas.toml import load_experiment
from tgmae.run import DATA, run

Command = Callable[..., Any]  # the command line, see conftest.py
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STAGES = ["index", "caption", "shard", "features", "guide", "pretrain", "probe"]


def states(output: str) -> dict[str, str]:
    """{stage: state} of the lines that a run or a plan prints."""
    words = [line.split() for line in output.splitlines() if line.split()[:1] and line.split()[0] in STAGES]
    return {line[0]: line[1] for line in words}


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """{file: (sha256, mtime)}, whatever says how long it took left out."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def copied(finished: Path, folder: Path) -> Path:
    """A copy of a finished workspace, times kept, and a config that names it, without Ray."""
    shutil.copytree(finished.parent / "workspace", folder / "workspace")
    config = folder / "small.toml"
    text = finished.read_text().replace(str(finished.parent / "workspace"), str(folder / "workspace"))
    config.write_text(text.replace('address = ""', 'address = "none"'))
    return config


def test_every_stage_leaves_what_it_should(finished: Path) -> None:
    workspace = finished.parent / "workspace"
    manifest = pq.read_table(workspace / "manifest" / "manifest.parquet").to_pylist()
    captions = pq.read_table(workspace / "captions" / "blip2" / "captions.parquet").to_pylist()
    assert len(manifest) == 24 and len(captions) == 72  # three keyframes a video
    assert {row["frame"] for row in captions} == {5, 16, 26}  # the midpoints of thirds of 32 frames
    probe = json.loads((workspace / "runs" / "text" / "probe" / "probe.json").read_bytes())
    assert probe["train"] == 16 and probe["test"] == 8 and 0 <= probe["top1"] <= 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset closes no file itself
def test_guide_tars_lie_beside_the_clips_and_any_webdataset_reads_them(finished: Path) -> None:
    workspace = finished.parent / "workspace"
    clips = sorted((workspace / "clips").glob("*.tar"))
    assert [path.name for path in clips] == ["000000.tar", "000001.tar", "000002.tar"]
    for path in clips:
        guide = workspace / "guides" / "text-blip2" / path.name
        ours, theirs = (list(wds.WebDataset(str(each), shardshuffle=False)) for each in (path, guide))
        assert [sample["__key__"] for sample in ours] == [sample["__key__"] for sample in theirs]
        for sample in theirs:
            scores, text = npy_array(sample["scores.npy"]), npy_array(sample["text.npy"])
            assert scores.dtype == np.uint8 and scores.shape == (3, 8, 8, 8)  # captions, frames, grid
            assert text.dtype == np.float16 and len(text) == 3


def test_a_second_run_does_nothing(tgmae: Command, finished: Path) -> None:
    before = contents(finished.parent / "workspace")
    again = tgmae("run", finished)
    assert states(again.stdout) == dict.fromkeys(STAGES, "current")
    after = contents(finished.parent / "workspace")
    assert after == before


def test_another_caption_source_leaves_manifest_clips_and_features_untouched(
    tgmae: Command, finished: Path, tmp_path: Path
) -> None:
    config = copied(finished, tmp_path)
    kept = {name: contents(tmp_path / "workspace" / name) for name in ("manifest", "clips", "features")}
    config.write_text(config.read_text().replace('captions = "blip2"', 'captions = "oracle"'))
    planned = tgmae("run", config, "--plan").stdout
    assert states(planned) == {
        "index": "current", "caption": "build", "shard": "current", "features": "current", "guide": "pending",
        "pretrain": "pending", "probe": "pending",
    }  # fmt: skip
    done = tgmae("run", config, "--set", "name=oracle").stdout
    assert states(done)["index"] == states(done)["shard"] == states(done)["features"] == "current"
    assert states(done)["guide"] == states(done)["pretrain"] == "build"
    assert {name: contents(tmp_path / "workspace" / name) for name in kept} == kept
    assert (tmp_path / "workspace" / "guides" / "text-blip2" / "stage.json").is_file()  # the other set stays, too


def test_with_ray_and_without_a_run_writes_the_same_bytes(
    finished: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    config = write_config(tmp_path / "small.toml", tmp_path / "workspace")
    run(load_experiment(config), only=DATA)
    for stage in ("manifest", "captions/blip2", "clips", "guides/text-blip2"):
        ours, theirs = (contents(each / "workspace" / stage) for each in (tmp_path, finished.parent))
        digests = [
            {name: value[0] for name, value in each.items() if name not in ("stage.json", "log.txt")}
            for each in (ours, theirs)
        ]
        assert digests[0] == digests[1] and len(digests[0]) >= 2


def test_a_changed_video_makes_the_index_stale_and_says_so(
    tgmae: Command, finished: Path, tmp_path: Path, world: Path
) -> None:
    config = copied(finished, tmp_path)
    moved = tmp_path / "data"
    shutil.copytree(world, moved)
    shutil.rmtree(next((moved / "train").iterdir()))
    config.write_text(config.read_text().replace(str(world), str(moved)))
    first = tgmae("run", config, "--plan").stdout
    assert "files changed" in first and states(first)["index"] == "rebuild"
    kept = contents(tmp_path / "workspace" / "manifest")
    refused = tgmae("index", moved, "--out", tmp_path / "workspace", status=2).stderr
    assert "files changed" in refused and "--rebuild" in refused
    assert contents(tmp_path / "workspace" / "manifest") == kept
    tgmae("index", moved, "--out", tmp_path / "workspace", "--rebuild", "--set", "allow_fewer=true")
    told = tgmae("status", tmp_path / "workspace").stdout
    assert "because manifest was rebuilt" in told
    assert [line.split()[1] for line in told.splitlines() if line.startswith("clips")] == ["stale"]


def test_guides_of_other_clips_are_refused(tgmae: Command, finished: Path, tmp_path: Path) -> None:
    config = copied(finished, tmp_path)
    tgmae("shard", tmp_path / "workspace", "--config", config, "--set", "shard.crf=40", "--rebuild")
    refused = tgmae("pretrain", tmp_path / "workspace", "--name", "other", "--config", config, status=2)
    assert "was made from other clips" in refused.stderr and "tgmae guide" in refused.stderr


def test_a_caption_set_that_does_not_cover_the_manifest_is_refused(
    tgmae: Command, finished: Path, tmp_path: Path
) -> None:
    config = copied(finished, tmp_path)
    path = tmp_path / "workspace" / "captions" / "blip2" / "captions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(6), path)
    shutil.rmtree(tmp_path / "workspace" / "guides")
    refused = tgmae("guide", tmp_path / "workspace", "--config", config, status=2)
    assert "2 of 24" in refused.stderr or "2 videos" in refused.stderr


def test_no_member_of_a_tar_names_a_path(finished: Path) -> None:
    for path in (finished.parent / "workspace").rglob("*.tar"):
        with tarfile.open(path) as tar:
            assert all("/" not in member.name and member.isfile() for member in tar)
