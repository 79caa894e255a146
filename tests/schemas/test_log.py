"""log.txt: plain lines with their times, of what was printed before and after its folder is known."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from schemas import log, progress
from schemas.progress import Progress


def lines(folder: Path) -> list[str]:
    found = (folder / log.FILE).read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in found)
    return [line[20:] for line in found]


def test_what_is_printed_is_kept_and_a_resumed_run_appends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        with log.capturing():
            print(f"before {number}", file=sys.stderr)
            log.keep_in(tmp_path)
            print("\x1b[31mred\x1b[0m \x1b]0;title\x07 after", file=sys.stderr)
            log.note("for the log alone")
    found = lines(tmp_path)
    assert [line.partition(":")[0] for line in found[:1]] == ["began"] and len(found) == 8
    assert found[1] == "before 1" and found[5] == "before 2" and found[3] == "for the log alone"
    assert found[2].startswith("red") and found[2].endswith("after") and "\x1b" not in found[2]
    assert capsys.readouterr().err.startswith("before 1\n\x1b[31mred")
    assert sys.stderr is not None and not hasattr(sys.stderr, "above_bar")


def test_how_it_ended_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), log.capturing():
        log.keep_in(tmp_path)
        raise KeyboardInterrupt
    assert lines(tmp_path)[-1] == "stopped: KeyboardInterrupt"


def test_a_bar_is_drawn_past_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "console", Console(stderr=True, force_terminal=True, width=80, soft_wrap=True))
    with log.capturing():
        log.keep_in(tmp_path)
        with Progress("shard", 3) as shown:
            shown.advance()
            print("a word meanwhile", file=sys.stderr)
            shown.advance(2)
        print("after it", file=sys.stderr)
    found = lines(tmp_path)
    assert found[1] == "a word meanwhile" and found[2].startswith("shard: 3 of 3 videos") and found[3] == "after it"
    assert "\x1b" in screen.getvalue() and screen.getvalue().count("a word meanwhile") == 1
    assert "after it" in screen.getvalue()


def test_nothing_is_kept_where_nothing_is_captured(tmp_path: Path) -> None:
    log.keep_in(tmp_path)
    log.note("nowhere")
    assert not list(tmp_path.iterdir())
