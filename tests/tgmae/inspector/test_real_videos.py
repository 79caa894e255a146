"""The page over real videos: every file of the folder is shown, and every failure with its reason."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.workspace import Workspace
from tgmae.cli import app
from tgmae.inspector import catalogue
from tgmae.inspector import catalogue_query as query
from tgmae.inspector.drawn_clips import Clips, experiment_of
from tgmae.inspector.map_measures import measure

CLIPS = os.environ.get("TGMAE_REAL_CLIPS", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CLIPS, reason="TGMAE_REAL_CLIPS names no folder of real videos"),
]


def test_every_video_and_every_failure_is_shown(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    for words in (["index", CLIPS, "--out", str(workspace.root)], ["shard", str(workspace.root)],
                  ["guide", str(workspace.root), "--guide", "motion-vectors"]):  # fmt: skip
        done = CliRunner().invoke(app, [*words, "--max-failures", "50%", "--set", "ray.address=none"])
        assert done.exit_code == 0, done.output
    catalogue.build(tmp_path / "index.sqlite", workspace, lambda *told: None)
    files = {path.relative_to(CLIPS).as_posix() for path in Path(CLIPS).rglob("*")
             if path.is_file() and path.suffix not in (".md", ".csv")}  # fmt: skip
    with closing(catalogue.connect(tmp_path / "index.sqlite")) as base:
        asked = query.asked({}, query.choices(base))
        shown = {row["video_id"] for row in query.videos(base, asked, most=10_000)}
        failed = {row["video_id"] for row in query.videos(base, query.Asked(coverage="failed"), most=10_000)}
        clips, guide = Clips(workspace), ("motion-vectors", "motion-vectors")
        rows = [row["clip"] for row in query.videos(base, query.Asked(coverage="clip"), most=10_000)]
        reasons = base.execute("SELECT message FROM failure").fetchall()
    assert shown == files and "hard/dc_corrupted.mp4" in failed
    assert len(reasons) >= len(failed) and all(row["message"] for row in reasons)
    found = [measure(clips, row, guide, experiment_of(workspace, None), None) for row in rows]
    assert all(0 <= each.entropy <= 1 and each.score >= 0 for each in found)
