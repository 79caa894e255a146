"""`tgmae captions`: figures that can be counted by hand, and the parts of a mix in a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pipeline.caption import run_caption
from pipeline.runtime.tars import write_shard
from schemas.config import CaptionFile, Clean, Llm
from schemas.errors import UserError
from schemas.shards import GuideMeta, meta_bytes, npy_bytes, quantize
from schemas.stage import StageRecord, write_record
from schemas.tables import FAILURES, GUIDE_INDEX, video_key, write_table
from schemas.workspace import Workspace
from tests.pipeline.test_caption_sets import experiment, make_manifest
from tgmae.caption_stats import clip_scores, load
from tgmae.cli import app
from tgmae.inspector.reports.summary_page import Report, write_report
from tgmae.run import NEEDS, _wanted, decide


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["captions", *map(str, arguments)])


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sets, `oracle` and `llm`, of four videos, of which one has no label."""
    monkeypatch.setitem(sys.modules, "ray", None)
    root = tmp_path / "w"
    make_manifest(root, "first")
    path = tmp_path / "made.json"
    path.write_text(
        json.dumps({"running": ["arafed legs move.", "Legs move fast."], "Holding [something]": ["A cup."]})
    )
    run_caption(experiment(root, "oracle"))
    run_caption(experiment(root, "llm", llm=Llm(file=str(path)), clean=Clean(enabled=True)))
    return root


def value(output: str, name: str) -> str:
    (line,) = [line for line in output.splitlines() if line.strip().startswith(name)]
    return line.strip().removeprefix(name).strip()


def test_stats_of_one_set(workspace: Path) -> None:
    result = call("stats", workspace, "--set", "llm")
    assert result.exit_code == 0, result.output
    assert result.output.startswith('llm: clean {"boilerplate": ["arafed"')
    assert value(result.output, "coverage") == "3 of 4 videos (75.0%), 5 captions, 1.7 a video"
    assert value(result.output, "failed") == "1 NoLabel"
    assert value(result.output, "length").startswith("2.4 words")  # 2, 3, 2, 3 and 2
    assert value(result.output, "duplicates") == "40.0% of the captions repeat another, 0.0% one of their own video"
    assert value(result.output, "most frequent") in ("2 times: legs move.", "2 times: Legs move fast.")
    assert value(result.output, "words") == "5 different; legs 4, move 4, fast 2, cup 1"
    assert value(result.output, "cleaned") == "2 captions (2 boilerplate)"
    assert "c.mp4: A cup." in result.output and "CLIP score" not in result.output


def test_stats_of_all_sets_and_of_none(workspace: Path, tmp_path: Path) -> None:
    output = call("stats", workspace).output
    assert [line.split(":")[0] for line in output.splitlines() if not line.startswith(" ")] == ["llm", "oracle"]
    missing = call("stats", workspace, "--set", "blip2")
    assert missing.exit_code == 2 and "tgmae caption" in missing.output
    assert call("stats", tmp_path).exit_code == 2


def test_diff(workspace: Path) -> None:
    run_caption(experiment(workspace, "oracle.video", oracle={"template": "running {}"}))
    result = call("diff", workspace, "oracle", "oracle.video")
    assert result.exit_code == 0, result.output
    assert value(result.output, "videos") == "3 in both, 0 only in oracle, 0 only in oracle.video"
    assert value(result.output, "the same") == "0 of 3 videos have the same captions"
    assert value(result.output, "overlap").startswith("0.89")  # 1, 1, and 2 of 3: holding, cup next to running
    assert value(result.output, "length") == "1.7 words in oracle, 2.7 in oracle.video"
    assert value(result.output, "more in oracle.video") == "running"
    assert "a.mp4\n  oracle       running\n  oracle.video running running\n" in result.output
    same = call("diff", workspace, "oracle", "oracle")
    assert value(same.output, "the same") == "3 of 3 videos have the same captions"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset closes no file itself
def test_clip_score_is_the_best_patch_averaged_over_frames(workspace: Path) -> None:
    folder = Workspace(workspace).guide("text-oracle")
    scores_CFHW = np.random.default_rng(0).uniform(0, 0.4, (2, 3, 4, 5)).astype(np.float32)
    stored, scale, offset = quantize(scores_CFHW)
    known = GuideMeta(video_id="a.mp4", frames=12, frame_stride=4, captions=["a", "b"], scale=scale, offset=offset)
    none = GuideMeta(video_id="d.mp4", frames=12, frame_stride=4, missing="no caption")
    samples = [
        (video_key("a.mp4"), {"json": meta_bytes(known), "scores.npy": npy_bytes(stored)}),
        (video_key("d.mp4"), {"json": meta_bytes(none)}),
    ]
    places = write_shard(folder / "000000.tar", samples)
    rows = [
        {"key": key, "shard": 0, "offset": offset, "length": length, "maps": 2 * (number == 0)}
        for number, ((key, _), (offset, length)) in enumerate(zip(samples, places, strict=True))
    ]
    write_table(folder / "index.parquet", rows, GUIDE_INDEX)
    write_record(folder, StageRecord(stage="guide", fingerprint="f", config={}, inputs={}, output="o", counts={},
                                     failed={}, tools={}, seconds=0))  # fmt: skip
    expected = [np.mean([frame.max() for frame in one]) for one in scores_CFHW]
    np.testing.assert_allclose(clip_scores(folder), expected, atol=0.4 / 255)
    said = value(call("stats", workspace, "--set", "oracle").output, "CLIP score")
    assert said.startswith(f"{np.mean(expected):.2f}") and "2 captions of text-oracle" in said


def test_a_run_makes_the_parts_of_a_mix_first(workspace: Path) -> None:
    made = json.dumps({"running": ["One."]})
    (workspace.parent / "made.json").write_text(made)
    mix = experiment(workspace, "oracle+llm", llm=Llm(file=str(workspace.parent / "made.json")))
    stages = [stage for stage in _wanted(mix, None) if stage.name in ("part", "caption")]
    assert [stage.name for stage in stages] == ["part", "part", "caption"]
    assert {stage.name for stage in _wanted(mix, None)} <= NEEDS.keys()
    assert [decide(stage, stage.spec(mix)).action for stage in stages] == ["current", "rebuild", "build"]
    for stage in stages:
        stage.run(mix)
    assert [decide(stage, stage.spec(mix)).action for stage in stages] == ["current"] * 3
    assert load(Workspace(workspace), "oracle+llm").texts["a.mp4"] == ["running", "One."]
    assert "part" not in [stage.name for stage in _wanted(experiment(workspace, "oracle"), None)]


def test_a_set_that_is_not_there(workspace: Path) -> None:
    with pytest.raises(UserError, match="run `tgmae caption"):
        load(Workspace(workspace), "file")


def test_a_terminal_is_told_nothing_by_captions(workspace: Path, tmp_path: Path) -> None:
    """Escapes, bells, marks that turn text around and line ends are written out, in captions as in failures."""
    evil = "\x1b]0;owned\x07 \u202etxt.exe\nerror: all is lost"
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps({"video_id": name, "text": evil}) + "\n" for name in ("a.mp4", "b.mp4")))
    run_caption(experiment(workspace, "file", file=CaptionFile(path=str(path))))
    folder = Workspace(workspace).captions("file")
    failures = [{"key": "k", "video_id": evil, "stage": "caption", "error": "NoCaption", "message": evil}]
    write_table(folder / "failures.parquet", failures, FAILURES)
    outputs = [
        call("stats", workspace, "--set", "file").output,
        call("diff", workspace, "file", "oracle").output,
        CliRunner().invoke(app, ["status", str(workspace)]).output,
        CliRunner().invoke(app, ["captions", "stats", str(workspace), "--set", evil]).output,
    ]
    for output in outputs:
        assert not set(output) & set("\x1b\x07\u202e"), output
        assert not any(line.startswith("error: all is lost") for line in output.splitlines())
    assert r"\x1b]0;owned\x07 \u202etxt.exe" in outputs[0]


def test_a_page_and_a_picture_are_told_nothing_either(tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", Report("\u202eevil\x1b[1m <b>", notes=["a\0b"]))
    page = (tmp_path / "a.html").read_text()
    assert r"\u202eevil\x1b[1m &lt;b&gt;" in page and r"a\x00b" in page
    assert not set(page) & set("\u202e\x1b\0")
