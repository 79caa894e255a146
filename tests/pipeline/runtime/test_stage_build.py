"""Stages in one process: what is done stays done, what changed is rebuilt, what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.runtime.job import Job
from pipeline.runtime.stage_build import build
from pipeline.runtime.units import Unit
from schemas.config import Experiment, Ray
from schemas.errors import UserError
from schemas.stage import StageRecord, StageSpec
from schemas.tables import FAILURES, GUIDE_INDEX, read_table, video_key
from tests.pipeline.runtime.misbehaving import Toy

pytestmark = pytest.mark.timeout(180)
HERE = Ray(address="none")  # the same bytes (test_stage_on_ray.py) without waiting for workers to start


def units(shards: int = 4, videos: int = 5) -> list[Unit]:
    names = [[f"{shard}/{video}.mp4" for video in range(videos)] for shard in range(shards)]
    return [Unit(s, [{"key": video_key(n), "video_id": n} for n in group]) for s, group in enumerate(names)]


def make(
    folder: Path,
    log: Path,
    *,
    config: dict[str, object] | None = None,
    shards: int = 4,
    options: Ray | None = None,
    max_failures: str = "100%",
    **toy: str,
) -> StageRecord:
    job = Job(
        spec=StageSpec("toy", folder, config or {"a": 1}, {"clips": "digest"}),
        units=units(shards),
        step=0,  # a toy's shards are no tars, which could be joined
        worker=lambda into: Toy(into, log, **toy),
        schema=GUIDE_INDEX,
        table="index.parquet",
        tools=["ray", "no-such-package"],
    )
    return build(job, Experiment(workspace="unused", ray=options or Ray(workers=1), max_failures=max_failures))


def test_another_config_rebuilds_it_and_reports_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make(tmp_path / "out", tmp_path / "log", options=HERE)
    second = make(tmp_path / "out", tmp_path / "log", config={"a": 2}, options=HERE)
    assert second.fingerprint != first.fingerprint
    assert "because a: 1 -> 2" in capsys.readouterr().err


def test_bad_videos_are_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    record = make(tmp_path / "out", tmp_path / "log", bad="/3.", options=HERE)
    assert record.counts == {"done": 16, "failed": 4, "shards": 4}
    assert record.failed == {"ValueError": 4}
    failures = read_table(tmp_path / "out" / "failures.parquet", FAILURES).to_pylist()
    assert [row["video_id"] for row in failures] == ["0/3.mp4", "1/3.mp4", "2/3.mp4", "3/3.mp4"]
    assert {row["message"] for row in failures} == {"a bad video"}


def test_no_output_at_all_is_an_error_that_quotes_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing came out of 20 videos.*a bad video"):
        make(tmp_path / "out", tmp_path / "log", bad="mp4", options=HERE)
    assert make(tmp_path / "out", tmp_path / "log", options=HERE).counts["done"] == 20


def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds files that tgmae did not write"):
        make(tmp_path / "out", tmp_path / "log")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_shards_that_are_cut_otherwise_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The size of a shard may be no part of the fingerprint: parts of an interrupted run must still fit."""
    with pytest.raises(UserError):
        make(tmp_path / "out", tmp_path / "log", broken="3/0.mp4", options=HERE)
    make(tmp_path / "out", tmp_path / "log", shards=2, options=HERE)
    assert "the config changed while it was incomplete" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2
