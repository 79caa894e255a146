"""Tables: the same rows give the same bytes; a foreign file is refused by name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.atomic import replacing
from schemas.errors import UserError
from schemas.tables import CAPTIONS, FAILURES, failure, read_table, video_key, write_table

ROWS = [failure("a/b.mp4", "index", ValueError("line one\nline two")), failure("c.mp4", "index", OSError())]


def test_rows_come_back_and_bytes_repeat(tmp_path: Path) -> None:
    for name in ("one.parquet", "two.parquet"):
        write_table(tmp_path / name, ROWS, FAILURES)
    assert read_table(tmp_path / "one.parquet", FAILURES).to_pylist() == ROWS
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_failure_says_what_and_why() -> None:
    assert ROWS[0]["message"] == "line one line two" and ROWS[0]["error"] == "ValueError"
    assert ROWS[1]["message"] == "OSError"  # an error without words still leaves some


def test_a_key_holds_no_dot_and_depends_on_the_id_alone() -> None:
    assert video_key("a.b/c.mp4") == video_key("a.b/c.mp4") != video_key("a.b/c.mkv")
    assert "." not in video_key("a.b/c.mp4")


def test_a_null_where_none_may_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        write_table(tmp_path / "x.parquet", [{"key": None, "video_id": "v", "caption": 0, "text": "t"}], CAPTIONS)
    assert not (tmp_path / "x.parquet").exists()


def test_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_table(tmp_path / "none.parquet", FAILURES)
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_table(tmp_path / "text.parquet", FAILURES)
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="lacks the columns"):
        read_table(tmp_path / "other.parquet", FAILURES)
    twice = pa.table([["a"], ["b"]], names=["key", "key"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="two columns of one name"):
        read_table(tmp_path / "twice.parquet", FAILURES)


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_damaged_table_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "t.parquet"
    write_table(path, ROWS, FAILURES)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    with suppress(UserError):  # any other error fails the test
        assert read_table(path, FAILURES).schema == FAILURES


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    write = replacing(tmp_path / "file")
    write.__enter__().write_text("half")
    stopped = RuntimeError("stopped in the middle")
    assert not write.__exit__(RuntimeError, stopped, None)  # the error goes on
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"
