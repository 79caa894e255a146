"""The event log: whole lines from several jobs, read on from any place, and never in a stage's way."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from schemas import events, progress
from schemas.events import FILE, EventLog, read_since
from schemas.progress import Progress, choose_style


def lines(root: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (root / FILE).read_text().splitlines()]


def test_jobs_write_side_by_side(tmp_path: Path) -> None:
    first, second = EventLog(tmp_path, "shard"), EventLog(tmp_path, "guide")
    first.write("begin", total=2, done=0, unit="video")
    second.write("failure", video="a\nb", error="Odd", message="x" * 9000)
    found = lines(tmp_path)
    assert [(each["stage"], each["event"]) for each in found] == [("shard", "begin"), ("guide", "failure")]
    assert found[0]["job"] != found[1]["job"] and len(str(found[1]["message"])) == events.LONGEST


def test_it_is_read_on_from_where_one_was(tmp_path: Path) -> None:
    log = EventLog(tmp_path, "shard")
    log.write("begin", total=3)
    before = read_since(tmp_path / FILE, 0, tail=1000)
    assert [event["event"] for event in before["events"]] == ["begin"]
    log.write("progress", done=1)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"event": "cut sho')
    after = read_since(tmp_path / FILE, before["next"], tail=1000)
    assert [event["event"] for event in after["events"]] == ["progress"]  # what is not whole yet comes next time
    assert read_since(tmp_path / "none", 7, tail=10) == {"events": [], "next": 0}


@given(st.binary(max_size=400), st.integers(-5, 500), st.integers(1, 300))
def test_whatever_lies_in_the_file_is_survived(tmp_path_factory: pytest.TempPathFactory, data: bytes, after: int,
                                               tail: int) -> None:  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "hostile.jsonl"
    path.write_bytes(data)
    found = read_since(path, after, tail=tail)
    assert found["events"] == [] or all(isinstance(event["event"], str) for event in found["events"])
    assert 0 <= found["next"] <= len(data)


def test_a_large_log_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LARGEST", 500)
    log = EventLog(tmp_path, "index")
    for number in range(20):
        log.write("progress", done=number)
    assert (tmp_path / "events.1.jsonl").is_file() and (tmp_path / FILE).stat().st_size < 700


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    EventLog(tmp_path, "index").write("begin")
    EventLog(tmp_path / "missing", "index").write("begin")
    assert not (tmp_path / "missing").exists()


def test_progress_tells_the_log_how_it_goes_and_ends(tmp_path: Path) -> None:
    with Progress("shard", 3, workspace=tmp_path) as bar:
        bar.advance(2, failed=1)
        bar.event("failure", video="a.mp4", error="Odd", message="why")
        bar.advance(1)
    with pytest.raises(ValueError, match="broke"), Progress("shard", 3, workspace=tmp_path):
        raise ValueError("broke")
    found = lines(tmp_path)
    assert [each["event"] for each in found] == ["begin", "progress", "failure", "end", "begin", "end"]
    assert found[3]["status"] == "done" and found[3]["done"] == 3
    assert found[5]["status"] == "failed" and found[5]["error"] == "ValueError" and found[5]["message"] == "broke"


@pytest.mark.parametrize("style", ["quiet", "json", ""])
def test_the_styles_of_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: progress.Style) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=stream))
    monkeypatch.setenv(progress.STYLE, "")
    choose_style(style)
    with Progress("shard", 2, workspace=tmp_path) as bar:
        bar.advance(2)
    said = stream.getvalue().splitlines()
    if style == "quiet":
        assert said == []
    elif style == "json":
        assert [json.loads(line)["event"] for line in said] == ["begin", "progress", "end"]
    else:
        assert len(said) == 1 and said[0].startswith("shard: 2 of 2 videos")
    assert len(lines(tmp_path)) == 3  # whatever is shown


def test_a_terminal_shows_what_each_worker_does(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)  # the bar is drawn there
    monkeypatch.setattr(progress, "console", Console(stderr=True, force_terminal=True, width=140))
    monkeypatch.delenv(progress.STYLE, raising=False)
    with Progress("shard", 40) as bar:
        bar.advance(3, failed=1)
        bar.worker("2", "shard 7", 3, 20)
        assert bar._bar is not None
        bar._bar.refresh()
    assert "worker 2: shard 7" in stream.getvalue() and "failed 1" in stream.getvalue()
