"""Progress as a log file gets it: whole lines, now and then, with what is left."""

from __future__ import annotations

import re

import pytest

from schemas import progress
from schemas.progress import Progress


def test_lines_are_plain_and_few(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with Progress("shard", 4, done=1) as shown:
        for failed in (0, 0, 1):
            shown.advance(1, failed=failed)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and "\r" not in "".join(lines)
    assert re.fullmatch(r"shard: 2 of 4 videos, [\d.e+]+ videos/s, 0:00:0\d left, failed 0", lines[0])
    assert re.fullmatch(r"shard: 4 of 4 videos, [\d.e+]+ videos/s, failed 1", lines[-1])


def test_between_two_lines_there_is_time(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("shard", 1000, unit="step") as shown:
        for _ in range(1000):
            shown.advance()
    assert len(capsys.readouterr().err.splitlines()) == 1
    with Progress("shard", 1000, hidden=True) as shown:
        shown.advance()
    assert not capsys.readouterr().err
