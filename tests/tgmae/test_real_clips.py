"""The same commands on real human-action videos: every file is in the shards or in failures, with its reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tgmae.demo.demo import demo_experiment

CLIPS = os.environ.get("TGMAE_REAL_CLIPS", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CLIPS, reason="TGMAE_REAL_CLIPS names no folder of real videos"),
]
SMALL = {
    "captions": "oracle", "optim.epochs": 1, "optim.warmup_epochs": 0, "objective.contrastive": 1.0,
    "clip.size": 64, "model.patch": 16, "text.patch": 16, "text.frame_stride": 16,
}  # fmt: skip


def test_every_file_is_kept_or_recorded_and_pretraining_runs(tmp_path: Path) -> None:
    from schemas.toml import dump

    overrides = [f"{key}={value}" for key, value in SMALL.items()]
    config = tmp_path / "real.toml"
    config.write_text(dump(demo_experiment(tmp_path, Path(CLIPS), overrides)), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "tgmae", "run", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    workspace = tmp_path / "workspace"
    kept = set(pq.read_table(workspace / "clips" / "index.parquet").column("video_id").to_pylist())
    failures = [
        row
        for stage in ("manifest", "clips")
        for row in pq.read_table(workspace / stage / "failures.parquet").to_pylist()
    ]
    failed = {row["video_id"] for row in failures}
    files = {
        str(path.relative_to(CLIPS))
        for path in Path(CLIPS).rglob("*")
        if path.is_file() and path.suffix not in (".md", ".csv")
    }
    assert kept | failed == files and not kept & failed
    assert "hard/dc_corrupted.mp4" in failed and all(row["message"] for row in failures)
    assert (workspace / "runs" / "text" / "model.safetensors").is_file()
