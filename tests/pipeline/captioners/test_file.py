"""Captions that people already have: tables and timed texts, joined by video."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.captioners import NoCaption, TimedText
from pipeline.captioners.file import AmbiguousName, FileCaptioner
from pipeline.captioners.subtitles import cues
from schemas.config import CaptionFile
from schemas.errors import UserError
from tests.pipeline.test_caption import row

MANIFEST = [row("run/a.mp4"), row("run/b.mp4"), row("walk/c.mp4")]
ROWS = [
    {"video_id": "run/a.mp4", "text": "one"},
    {"video_id": "run/a.mp4", "text": "two"},
    {"video_id": "b", "text": "three, quoted\nover lines"},
]


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def texts(captioner: FileCaptioner, name: str, **known: Any) -> list[str]:
    return [said.text for said in captioner.describe(row(name, **known))]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_is_joined_and_says_what_is_missing(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / f"c.{suffix}", [*ROWS, {"video_id": "gone.mp4", "text": "x"}, {"video_id": "", "text": "y"}])
    captioner = FileCaptioner(CaptionFile(path=str(path)), MANIFEST)
    assert texts(captioner, "run/a.mp4") == ["one", "two"]
    assert texts(captioner, "run/b.mp4") == ["three, quoted\nover lines"]
    with pytest.raises(NoCaption, match=f"c.{suffix} has no caption for this video"):
        captioner.describe(MANIFEST[2])
    said = capsys.readouterr().err
    assert "2 of 3 videos have captions" in said and "1 have none (walk/c.mp4)" in said
    assert "1 names in it are no video of the manifest (gone.mp4)" in said
    assert "1 entries cannot be used" in said and "names no video" in said


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_relative_path_is_no_url(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exp:1").mkdir()
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "exp:1" / f"c.{suffix}", ROWS).relative_to(tmp_path)
    assert texts(FileCaptioner(CaptionFile(path=str(path)), MANIFEST), "run/a.mp4") == ["one", "two"]


@pytest.mark.parametrize("name", ["run/a.mp4", "./run/a.mp4", "run/a", "a.mp4", "a"])
def test_a_video_may_be_named_by_path_name_or_stem(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "c.csv", [{"video_id": name, "text": "one"}])
    assert texts(FileCaptioner(CaptionFile(path=str(path)), MANIFEST), "run/a.mp4") == ["one"]


def test_a_stem_of_several_videos_joins_none(tmp_path: Path) -> None:
    path = save(tmp_path / "c.csv", [{"video_id": "a", "text": "whose?"}])
    captioner = FileCaptioner(CaptionFile(path=str(path)), [row("run/a.mp4"), row("walk/a.mp4")])
    with pytest.raises(AmbiguousName, match="run/a.mp4 and walk/a.mp4"):
        captioner.describe(row("run/a.mp4"))


def test_lists_of_texts_times_and_a_limit(tmp_path: Path) -> None:
    path = save(tmp_path / "c.jsonl", [{"id": "a", "said": [f"t{n}" for n in range(9)], "at": 1.5}])
    options = CaptionFile(path=str(path), video_column="id", text_column="said", time_column="at", per_video=3)
    said = FileCaptioner(options, MANIFEST).describe(row("run/a.mp4", fps=10.0))
    assert said == [TimedText("t1", 15, 1.5), TimedText("t4", 15, 1.5), TimedText("t7", 15, 1.5)]


@pytest.mark.parametrize(
    ("content", "options", "hint"),
    [
        ("name,text\na,b\n", {}, "no column 'video_id'; it has name, text"),
        ("video_id,said\na,b\n", {}, "no column 'text'"),
        ("video_id,text\n\xff", {}, "cannot be read"),
        ('video_id,text\n"a,b\n', {}, "cannot be read"),
        ("", {"path": ""}, "needs caption.file.path"),
        ("", {"path": "no.txt"}, "neither .csv, .jsonl, .parquet"),
        ("", {"path": "none.csv"}, "is not a file"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str, options: dict[str, str], hint: str) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=hint):
        FileCaptioner(CaptionFile(**{"path": str(path), **options}), MANIFEST)


VTT = """\ufeffWEBVTT - a title

STYLE
::cue { color: red }

NOTE 00:00.000 is not a cue

1
00:00.500 --> 00:01.500 align:start
<v Ann>a &amp; <b>b</b>

00:00:02.000 --> 00:00:04.000
b goes on
c

00:00:04.000 --> 00:00:05.000
c

"""
SRT = (
    "1\r\n00:00:00,500 --> 00:00:01,500\r\n{\\an8}a & b\r\n\r\n2\r\n00:00:02,000 --> 00:00:04,000\r\nb goes on\r\nc\r\n"
)


def test_cues_of_vtt_and_srt() -> None:
    assert cues(VTT.removeprefix("\ufeff")) == [TimedText("a & b", time=1.0), TimedText("b goes on c", time=3.0)]
    assert cues(SRT) == [TimedText("a & b", time=1.0), TimedText("b goes on c", time=3.0)]
    assert cues("no cue here") == []


def test_timed_captions_fall_within_their_segment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.vtt").write_text(VTT, encoding="utf-8")
    (tmp_path / "b.srt").write_text(SRT, encoding="utf-8")
    (tmp_path / "c.srt").write_text("nothing", encoding="utf-8")
    segments = [row("run/a.mp4#0-2", start=None, end=2.0), row("run/a.mp4#2-9", start=2.0, end=9.0, fps=10.0)]
    rows = [*segments, row("run/a.mp4#6-9", start=6.0, end=9.0), *MANIFEST]
    captioner = FileCaptioner(CaptionFile(path=str(tmp_path)), rows)
    assert captioner.describe(rows[0]) == [TimedText("a & b", 10, 1.0)]
    assert captioner.describe(rows[1]) == [TimedText("b goes on c", 10, 3.0)]
    with pytest.raises(NoCaption, match="within this segment"):
        captioner.describe(rows[2])
    assert texts(captioner, "run/b.mp4") == ["a & b", "b goes on c"]
    assert "c.srt: no cue" in capsys.readouterr().err


def test_a_folder_without_timed_captions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no .vtt and no .srt"):
        FileCaptioner(CaptionFile(path=str(tmp_path)), MANIFEST)
