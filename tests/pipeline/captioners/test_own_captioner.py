"""A class of one's own as a captioner: the example of docs/captions.md as it stands there, and what may be wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.caption_sets import captioner_maker
from pipeline.captioners import Frame
from pipeline.runtime.model_identity import captioner_identity
from pipeline.stage_specs import caption_spec
from schemas.config import Caption, Clean, Experiment
from schemas.errors import UserError
from schemas.stage import read_record
from schemas.tables import CAPTIONS, read_table
from schemas.workspace import Workspace
from tests.pipeline.conftest import write_video
from tgmae.cli import app

PAGE = Path(__file__).resolve().parents[3] / "docs" / "captions.md"
NAME = "mean_colour:MeanColour"
SIMPLE = "class Words:\n    def __init__(self, experiment): ...\n    def caption(self, frames): return {}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder where the command runs; what was imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def write_example(folder: Path) -> None:
    ((name, code),) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= 10
    (folder / name).write_text(code, encoding="utf-8")


def coloured(number: int, width: int, height: int) -> Frame:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., number // 8] = 200
    return pixels


def frames(count: int = 3) -> list[Frame]:
    return [coloured(8 * number % 24, 8, 8) for number in range(count)]


def made(source: str, **caption: Any) -> Any:
    return captioner_maker(source, Experiment(workspace="w", captions=source, caption=Caption(**caption)))()


def test_the_captioner_of_the_page_through_the_commands(folder: Path) -> None:
    write_example(folder)
    write_video(folder / "data" / "a.mp4", frames=24, draw=coloured)
    config = folder / "mine.toml"
    config.write_text(f'workspace = "w"\ncaptions = "{NAME}"\nindex.data = "data"\nray.address = "none"\n')
    for command in (
        ["index", "data", "--out", "w", "--config", "mine.toml"],
        ["caption", "w", "--source", NAME, "--set", "ray.address=none"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    made_in = Workspace(folder / "w").captions(NAME)
    assert made_in.name == "mean_colour.MeanColour"
    rows = read_table(made_in / "captions.parquet", CAPTIONS).to_pylist()
    assert [row["text"] for row in rows] == ["something red", "something green", "something blue"]
    planned = CliRunner().invoke(app, ["run", "mine.toml", "--plan"]).output
    assert re.search(r"caption +current", planned), planned
    experiment = Experiment(workspace="w", captions=NAME)
    assert experiment.guide_name == "text-mean_colour.MeanColour"
    record = read_record(made_in)
    assert record is not None and record.config["source"] == NAME


def test_the_source_is_a_part_of_the_identity(folder: Path) -> None:
    path = folder / "mine.py"
    path.write_text(SIMPLE)
    (folder / "w").mkdir()

    def identity(**caption: Any) -> Any:
        experiment = Experiment(workspace="w", captions="mine:Words", caption=Caption(**caption))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.stage_specs._manifest", lambda workspace: "m")
            return caption_spec(experiment).config

    before = identity()
    assert before["source"] == "mine:Words" and len(before["class"]["source"]) == 64 and before["keyframes"] == 3
    assert identity(keyframes=1) != before != identity(clean=Clean(enabled=True))
    assert identity(videos_per_shard=7) == before
    path.write_text(SIMPLE + "# changed")
    assert identity() != before


def test_an_unknown_source_has_no_identity() -> None:
    """It was given BLIP-2's."""
    with pytest.raises(UserError, match="unknown caption source 'blip3'. Did you mean 'blip'"):
        captioner_identity("blip3", Caption())


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("['a']", "returned 1 texts of 3 frames"),
        ("'abc'", "returned str, not a list of str"),
        ("None", "returned NoneType"),
        ("[1, 2, 3]", "returned list, not a list of str"),
    ],
)
def test_results_that_do_not_fit(folder: Path, returned: str, message: str) -> None:
    (folder / "mine.py").write_text(SIMPLE.format(returned))
    with pytest.raises(UserError, match=message):
        made("mine:Words").caption(frames())


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("mine:", "", "is not module:ClassName"),
        ("absent:Words", "", "there is no module absent"),
        ("mine:Words", "class Words: ...", r"no method caption\(frames\) \(docs/captions.md\)"),
        ("mine:Words", "1 / 0", "cannot be imported: ZeroDivisionError"),
        ("mine:Words", SIMPLE + "    batch_size = 0", "batch_size is 0"),
        ("mine:Words", "class Words:\n    def caption(self, frames): ...", r"Words\(experiment\) failed: TypeError"),
    ],
)
def test_what_may_be_wrong_with_a_class(folder: Path, source: str, code: str, message: str) -> None:
    (folder / "mine.py").write_text(code)
    with pytest.raises(UserError, match=message):
        made(source)


def test_sets_of_one_class_and_mixes_with_it() -> None:
    experiment = Experiment(workspace="w", captions="oracle+mine:Words.centre")
    assert experiment.guide_name == "text-oracle+mine.Words.centre"
    assert Workspace(Path("w")).captions(experiment.captions).name == "oracle+mine.Words.centre"
