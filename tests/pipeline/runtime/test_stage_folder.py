"""Nothing finished is lost: a stage stays until its replacement is whole, one process writes it, files are checked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.job import Job
from pipeline.runtime.kept import keep_result, kept_results
from pipeline.runtime.stage_build import build
from pipeline.runtime.stage_folder import building
from pipeline.runtime.units import ShardResult, Unit
from schemas import replacement
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.replacement import settle, swap
from schemas.stage import (
    FILE,
    StageRecord,
    StageSpec,
    current_record,
    damage,
    read_record,
    replaced_folder,
    replacement_folder,
    write_record,
)
from schemas.tables import GUIDE_INDEX, video_key


class Letters:
    """Writes a file of one letter a shard; fails at shard `at`."""

    def __init__(self, folder: Path, letter: str, at: int | None = None) -> None:
        self.folder, self.letter, self.at = folder, letter, at

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        if unit.shard == self.at:
            raise UserError("out of letters")
        path = self.folder / f"{unit.shard:06d}.tar"
        path.write_text(self.letter * 100)
        rows = [{"key": row["key"], "shard": unit.shard, "offset": 0, "length": 1, "maps": 1} for row in unit.rows]
        yield ShardResult(unit.shard, rows, [], {path.name: hashlib.sha256(path.read_bytes()).hexdigest()})


def make(folder: Path, letter: str, *, shards: int = 3, videos: int = 10, at: int | None = None,
         **options: object) -> StageRecord:  # fmt: skip
    names = [[f"{shard}/{video}" for video in range(videos)] for shard in range(shards)]
    units = [Unit(s, [{"key": video_key(n), "video_id": n} for n in group]) for s, group in enumerate(names)]
    job = Job(spec=spec(folder, letter), units=units, worker=lambda into: Letters(into, letter, at), schema=GUIDE_INDEX,
              table="index.parquet", tools=[], in_process=True)  # fmt: skip
    return build(job, Experiment.model_validate({"workspace": "unused", **options}))


def spec(folder: Path, letter: str) -> StageSpec:
    return StageSpec("toy", folder, {"letter": letter}, {})


def letters(folder: Path) -> set[str]:
    return {path.read_text()[0] for path in folder.glob("*.tar")}


def test_a_rebuild_that_fails_leaves_what_was_finished(tmp_path: Path) -> None:
    first = make(tmp_path / "out", "a")
    with pytest.raises(UserError, match="out of letters"):
        make(tmp_path / "out", "b", at=1)
    assert current_record(spec(tmp_path / "out", "a")) == first and letters(tmp_path / "out") == {"a"}
    second = make(tmp_path / "out", "b")
    assert read_record(tmp_path / "out") == second and letters(tmp_path / "out") == {"b"}
    assert not replacement_folder(tmp_path / "out").exists() and not replaced_folder(tmp_path / "out").exists()


@pytest.mark.parametrize(("left", "refused"), [(1, True), (2, False), (3, False)])
def test_a_stage_does_not_shrink_unasked(tmp_path: Path, left: int, refused: bool) -> None:
    """As when half of the data is not mounted: 30 videos, of which max_failures lets 15 go."""
    make(tmp_path / "out", "a")
    if refused:
        with pytest.raises(UserError, match=r"has 30 videos, its replacement would have 10.*allow_fewer=true"):
            make(tmp_path / "out", "b", shards=left, max_failures="50%")
        assert letters(tmp_path / "out") == {"a"} and len(list((tmp_path / "out").glob("*.tar"))) == 3
        make(tmp_path / "out", "b", shards=left, max_failures="50%", allow_fewer=True)
    else:
        make(tmp_path / "out", "b", shards=left, max_failures="50%")
    assert letters(tmp_path / "out") == {"b"} and len(list((tmp_path / "out").glob("*.tar"))) == left


def test_one_process_writes_a_stage(tmp_path: Path) -> None:
    with building(spec(tmp_path / "out", "a")):
        with pytest.raises(UserError, match=rf"is being written by process {os.getpid()} on .* since 20"):
            make(tmp_path / "out", "b")
        (tmp_path / "out" / FILE).touch()
        (tmp_path / "out" / FILE).unlink()
    assert make(tmp_path / "other", "b").counts["done"] == 30


def test_a_dead_owner_is_no_owner(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from schemas.lock import only_writer\n"
        "with only_writer(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], timeout=60)
    assert done.returncode == -9
    assert make(tmp_path / "out", "a").counts["done"] == 30


def test_a_part_without_its_file_is_not_believed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), building(spec(tmp_path / "out", "a")) as folder:
        assert folder is not None
        for shard in range(3):
            *_, result = Letters(folder, "a").run(Unit(shard, []))
            assert isinstance(result, ShardResult)
            keep_result(folder, result)
        raise KeyboardInterrupt
    assert kept_results(tmp_path / "out").keys() == {0, 1, 2}
    (tmp_path / "out" / "000001.tar").unlink()
    (tmp_path / "out" / "000002.tar").write_text("a")
    assert kept_results(tmp_path / "out").keys() == {0}


def test_a_file_that_is_missing_or_cut_is_noticed_and_rebuilt(tmp_path: Path) -> None:
    record = make(tmp_path / "out", "a")
    (tmp_path / "out" / "000001.tar").unlink()
    (tmp_path / "out" / "index.parquet").write_bytes(b"cut")
    assert damage(tmp_path / "out", record) == [
        "000001.tar is missing", f"index.parquet has 3 bytes, not {record.files['index.parquet'].bytes}",
    ]  # fmt: skip
    assert current_record(spec(tmp_path / "out", "a")) is None
    assert make(tmp_path / "out", "a").output == record.output and not damage(tmp_path / "out", record)


def test_temporary_files_of_dead_workers_do_not_stay(tmp_path: Path) -> None:
    with building(spec(tmp_path / "out", "a")) as folder:
        assert folder is not None
        (folder / ".000001.tar.4242.tmp").write_text("half a shard")
    assert not list((tmp_path / "out").glob(".*tmp"))


@given(stop=st.integers(0, 4))
def test_a_swap_that_is_cut_off_ends_with_one_whole_folder(tmp_path_factory: pytest.TempPathFactory, stop: int) -> None:
    """Killed before, between or after its renames."""
    folder = tmp_path_factory.mktemp("swap") / "clips"
    for path, letter in ((folder, "a"), (replacement_folder(folder), "b")):
        path.mkdir()
        (path / "000000.tar").write_text(letter)
        write_record(path, StageRecord(stage="toy", fingerprint=letter, config={}, inputs={}, output="", counts={},
                                       failed={}, tools={}, seconds=0))  # fmt: skip
    steps = 0

    def counted(function):  # type: ignore[no-untyped-def]
        def call(*arguments):  # type: ignore[no-untyped-def]
            nonlocal steps
            steps += 1
            if steps > stop:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replacement.os, "replace", counted(os.replace))
        patch.setattr(replacement.shutil, "rmtree", counted(replacement.shutil.rmtree))
        if stop < 3:
            with pytest.raises(KeyboardInterrupt):
                swap(folder)
        else:
            swap(folder)
    settle(folder)
    record = read_record(folder)
    assert record is not None and letters(folder) == {record.fingerprint} == ({"a"} if stop == 0 else {"b"})
    assert not replaced_folder(folder).exists()
