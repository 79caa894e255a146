"""Stages built by workers of one real local Ray: each video once, the bytes of one process, whatever dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pipeline.runtime.kept import kept_parts
from schemas.config import Ray
from schemas.errors import UserError
from schemas.stage import read_record
from schemas.tables import FAILURES, read_table
from tests.pipeline.runtime.stamping import DiesAfterwards
from tests.pipeline.runtime.test_parts import make as stamps
from tests.pipeline.runtime.test_parts import shards, visible
from tests.pipeline.runtime.test_stage_build import HERE
from tests.pipeline.runtime.test_stage_build import make as toys

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray for the module: starting it takes seconds."""
    ray.init(address="local", num_cpus=3, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The driver and its Ray are killed (SIGKILL) in the middle; the second run, on a Ray that starts next to what the
    first left, makes only the missing shards."""
    program = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from tests.pipeline.runtime import test_stage_build
        class Slow(test_stage_build.Toy):
            def run(self, unit):
                if unit.shard >= 2:
                    time.sleep(600)
                yield from super().run(unit)
        test_stage_build.Toy = Slow
        test_stage_build.make(Path({str(tmp_path / "out")!r}), Path({str(tmp_path / "log")!r}))
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True, cwd=ROOT)
    parts = tmp_path / "out" / ".parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("00000[01].json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert sorted(path.name for path in parts.glob("0*.json")) == ["000000.json", "000001.json"]
    request.getfixturevalue("local_ray")
    toys(tmp_path / "out", tmp_path / "log.again")
    assert sorted((tmp_path / "log.again").read_text().split()) == ["2", "3"]
    toys(tmp_path / "calm", tmp_path / "calm.log", options=HERE)
    assert visible(tmp_path / "out") == visible(tmp_path / "calm")


@pytest.mark.usefixtures("local_ray")
def test_a_stage_is_made_once(tmp_path: Path) -> None:
    first = toys(tmp_path / "out", tmp_path / "log", options=Ray(workers=2))
    again = toys(tmp_path / "out", tmp_path / "log")
    assert again == first == read_record(tmp_path / "out")
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1", "2", "3"]
    assert first.counts == {"done": 20, "failed": 0, "shards": 4}
    assert first.tools["no-such-package"] == "unknown"
    assert not (tmp_path / "out" / ".parts").exists()


@pytest.mark.usefixtures("local_ray")
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    toys(tmp_path / "calm", tmp_path / "calm.log", options=HERE)
    toys(tmp_path / "killed", tmp_path / "killed.log", die="1/2.mp4", options=Ray(workers=2))
    assert (tmp_path / "killed.died").exists()
    assert visible(tmp_path / "killed") == visible(tmp_path / "calm")


@pytest.mark.usefixtures("local_ray")
def test_an_error_of_the_worker_stops_the_stage_and_the_next_run_goes_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not like 3/0"):
        toys(tmp_path / "out", tmp_path / "log", broken="3/0.mp4")
    assert read_record(tmp_path / "out") is None
    done = {int(path.stem) for path in (tmp_path / "out" / ".parts").glob("0*.json")}
    toys(tmp_path / "out", tmp_path / "log.again", options=HERE)  # a killed worker may still write into the first
    assert {int(shard) for shard in (tmp_path / "log.again").read_text().split()} == {0, 1, 2, 3} - done and done
    toys(tmp_path / "calm", tmp_path / "calm.log", options=HERE)
    assert visible(tmp_path / "out") == visible(tmp_path / "calm")


@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_fits_nowhere_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no room for a worker of 64 CPUs"):
        toys(tmp_path / "out", tmp_path / "log", options=Ray(cpus=64))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Made without Ray, each shard in one go."""
    folder = tmp_path_factory.mktemp("calm")
    stamps(folder / "out", folder / "log", 20, 9, options=HERE)
    assert len((folder / "log").read_text().split()) == 29
    return visible(folder / "out")


@pytest.mark.usefixtures("local_ray")
def test_a_killed_worker_costs_its_part_alone(tmp_path: Path, calm: dict[str, bytes]) -> None:
    stamps(tmp_path / "out", tmp_path / "log", 20, 9, die="0/13.mp4")
    assert (tmp_path / "log.died").exists() and visible(tmp_path / "out") == calm
    assert len((tmp_path / "log").read_text().split()) < 29 + 9


@pytest.mark.usefixtures("local_ray")
def test_each_video_is_made_once_also_where_a_worker_dies_after_its_result(
    tmp_path: Path, calm: dict[str, bytes]
) -> None:
    record = stamps(tmp_path / "out", tmp_path / "log", 20, 9, worker=DiesAfterwards, options=Ray(workers=3))
    assert (tmp_path / "log.died").exists() and visible(tmp_path / "out") == calm
    assert sorted((tmp_path / "log").read_text().split()) == sorted(
        row["video_id"] for unit in shards(20, 9) for row in unit.rows
    )
    assert record.counts == {"done": 26, "failed": 3, "shards": 2}
    failed = read_table(tmp_path / "out" / "failures.parquet", FAILURES)["video_id"].to_pylist()
    assert failed == ["0/7.mp4", "0/17.mp4", "1/7.mp4"]


@pytest.mark.usefixtures("local_ray")
def test_what_is_done_of_a_shard_is_not_made_again(tmp_path: Path, calm: dict[str, bytes]) -> None:
    """Resumed by two workers, and in this process."""
    with pytest.raises(UserError, match="does not like"):
        stamps(tmp_path / "out", tmp_path / "log", 20, 9, broken="0/18.mp4")
    half_written = shutil.ignore_patterns("*.tmp")  # by the killed workers of the first run, which may still be about
    shutil.copytree(tmp_path / "out", tmp_path / "copy", ignore=half_written)
    for out, resumed in ((tmp_path / "out", Ray(workers=2)), (tmp_path / "copy", HERE)):
        names = {row["video_id"] for part in kept_parts(out, shards(20, 9))[0] for row in part.unit.rows}
        assert names
        log = out.with_suffix(".again")
        stamps(out, log, 20, 9, options=resumed)
        assert visible(out) == calm
        again = log.read_text().split()
        assert not names & set(again) and len(again) == len(set(again))
