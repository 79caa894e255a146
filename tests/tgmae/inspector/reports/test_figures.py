"""Figures and reports of one's own videos: every kind of mask, in every format, with captions in any script."""

from __future__ import annotations

import io
import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from schemas.errors import UserError
from schemas.workspace import Workspace
from tests.tgmae.inspector.conftest import HOSTILE, experiment
from tgmae.cli import app
from tgmae.inspector.drawn_clips import Clips
from tgmae.inspector.reports import figures
from tgmae.inspector.reports.show_figures import find_row, show
from tgmae.inspector.reports.summary_page import Answer, Bar, Line, Picture, Report, Table, write_report
from tgmae.inspector.reports.text_fonts import fonts_for
from tgmae.inspector.reports.workspace_report import report_workspace


def test_a_clip_is_shown_under_every_kind_of_mask(looked_at: Workspace) -> None:
    sheet = figures.mask_sheet(Clips(looked_at), experiment(looked_at), 0)
    assert [row.label for row in sheet.rows] == [
        "frames",
        "text scores",
        "random",
        "tube (VideoMAE)",
        "text, top-k (TGM)",
        "text, bottom-k",
        "motion (MGM)",
        "motion, box",
        "optical flow (MGMAE)",
    ]
    assert len({row.frames_THWC.tobytes() for row in sheet.rows}) == len(sheet.rows)
    for row in sheet.rows[2:]:
        assert (row.frames_THWC == 128).all(-1).mean() > 0.4  # hidden patches
    moving = figures.mask_sheet(Clips(looked_at), experiment(looked_at), 0, every_frame=True)
    assert len(sheet.rows[0].frames_THWC) == 2 and len(moving.rows[0].frames_THWC) == 4


def test_a_video_without_text_is_shown_under_the_others(looked_at: Workspace) -> None:
    labels = [row.label for row in figures.mask_sheet(Clips(looked_at), experiment(looked_at), 5).rows]
    assert "motion (MGM)" in labels and "text, top-k (TGM)" not in labels


@pytest.mark.medium
def test_every_format_opens(trained: Workspace, tmp_path: Path) -> None:
    said: list[str] = []
    written = show(
        trained,
        tmp_path,
        video=None,
        run=None,
        wanted=["masks", "reconstruction", "contrastive"],
        formats=["png", "svg", "gif", "mp4"],
        checkpoint=("model", "neighbours"),
        say=said.append,
    )
    assert {path.name for path in written} == {
        f"{name}.{format}" for name in ("masks", "reconstruction") for format in ("png", "svg", "gif", "mp4")
    }
    assert any("contrastive: not drawn: no run" in line for line in said)
    with Image.open(tmp_path / "masks.png") as png, Image.open(tmp_path / "masks.gif") as gif:
        assert np.asarray(png.convert("RGB")).std() > 10 and getattr(gif, "n_frames", 1) == 4
    with av.open(tmp_path / "masks.mp4") as container:
        assert len(list(container.decode(video=0))) == 8
    svg = (tmp_path / "masks.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml") and "<script" not in svg


def test_what_is_not_there_is_said(trained: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 videos are called 'no.mp4'"):
        find_row(Clips(trained), "no.mp4", None)
    assert find_row(Clips(trained), "001.mp4", None) == find_row(Clips(trained), "fast/001.mp4", None)
    with pytest.raises(UserError, match="there is no run 'x'"):
        show(trained, tmp_path, video=None, run="x", wanted=[], formats=[], checkpoint=("model", "true"), say=print)
    with pytest.raises(UserError, match="no weights 'step_9'"):
        figures.reconstruction_sheet(Clips(trained), "pretrain", 0, weights="step_9")


def test_statistics_are_named_on_the_picture(trained: Workspace) -> None:
    own = figures.reconstruction_sheet(Clips(trained), "pretrain", 0)
    true = figures.reconstruction_sheet(Clips(trained), "pretrain", 0, statistics="true")
    assert "visible ones around them" in own.note and "taken from the original" in true.note
    assert not np.array_equal(own.rows[2].frames_THWC, true.rows[2].frames_THWC)


def test_fonts_are_looked_for_and_what_is_missing_is_named() -> None:
    assert fonts_for("a green cross, танцует, ναι") == (["DejaVu Sans"], "")
    families, missing = fonts_for("\U0001f9ff 熊猫 \u200d")
    assert families[0] == "DejaVu Sans" and set(missing) <= set("\U0001f9ff熊猫")
    private = "\ue000"
    assert private not in fonts_for("abc")[1]


def test_the_report_of_a_workspace_is_one_file(trained: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report_workspace(trained, path)
    page = path.read_text(encoding="utf-8")
    for question in ("What was hidden?", "Did it find the object?", "Did the model learn?", "Compared with what?"):
        assert question in page
    assert not re.search(r"(src|href)=\"(?!data:)|<script|url[(]", page)
    assert "default-src" in page and "Linear probe, top-1" in page
    assert list(tmp_path.iterdir()) == [path]


def test_every_text_of_a_report_is_escaped(tmp_path: Path) -> None:
    bad, buffer = HOSTILE, io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    picture = Picture(buffer.getvalue(), bad)
    write_report(
        tmp_path / "a.html",
        Report(
            bad,
            [bad],
            [Answer(bad, bad, bad, [Bar(bad, 0.5, bad)], picture)],
            [Line(bad, bad, bad)],
            [picture],
            [Table(bad, [bad], [[bad]])],
        ),
    )
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<img src=x" not in page and "\u202e" not in page
    assert page.count("&lt;script&gt;") == 19


@pytest.mark.medium
def test_the_commands_say_what_they_wrote_and_refuse_what_they_cannot(trained: Workspace, tmp_path: Path) -> None:
    def call(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    shown = call("show", trained.root, "--out", tmp_path, "--figure", "masks", "--video", "001.mp4")
    assert shown.exit_code == 0 and str(tmp_path / "masks.png") in shown.output
    wrong = call("show", trained.root, "--out", tmp_path, "--figure", "mask")
    assert wrong.exit_code == 2 and "Did you mean 'masks'?" in wrong.output
    told = call("report", trained.root, "--out", tmp_path / "r.html")
    assert told.exit_code == 0 and (tmp_path / "r.html").is_file()
    none = call("report", tmp_path)
    assert none.exit_code == 2 and "is not a workspace" in none.output
