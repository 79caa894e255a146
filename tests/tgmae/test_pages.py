"""The commands of the docs' pages that can run on small data without a cluster or downloaded weights, word for word.

Each page's are run in its own order, in one small workspace; what is replaced: folders by those of the test, big models
and long schedules by --set at the end. The README's are run by test_readme.py; all others are parsed by test_docs.py.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from schemas.config import Experiment
from schemas.stage import read_record
from tests.own_modules import working_in
from tests.test_docs import blocks
from tests.tgmae.test_readme import SMALL, ssv2
from tgmae import stages
from tgmae.cli import app
from train.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SKIPPED = r"--ray-address|lavis|--source blip2|pretrain\.processes|pretrain\.fsdp|stages=\[\]|sweep"
"""What needs a cluster, another environment, models that test_readme.py loads, or is no command of tgmae's."""
TINY = {**SMALL["run"], "ray.address": "none", "pretrain.device": "cpu"}
MY = {"workspace": "work/ssv2", "guide": "motion-vectors", "mask.kind": "motion-vectors", "captions": "oracle",
      "stages": ["pretrain"], "index.format": "ssv2", "name": "my"}  # fmt: skip
PLACES = {"WORKSPACE": "work/ssv2", "DATA": "data", "NOTES": "data/labels", "NAME": "pretrain", "OUT": "out"}
MADE: dict[str, list[str]] = {  # page -> what its commands leave
    "captions": ["captions/mean_colour.MeanColour", "guides/motion-vectors"],
    "custom_guides": ["guides/centre_prior.CentrePrior"],
    "datasets": ["manifest"],
    "finetune": ["runs/tgm/finetune"],
    "probe_and_retrieval": [],
    "training": ["runs/longer"],
    "weights": ["runs/pretrain/finetune"],
    "workspace": ["runs/pretrain"],
}


@pytest.fixture(scope="module")
def in_process() -> Iterator[None]:
    """Training without a process of its own, whose imports take longer than all else here."""

    def train(command: str, experiment: Experiment, *options: str) -> None:
        COMMANDS[command](experiment, "--rebuild" in options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "_train", train)
        yield


def call(words: list[str], sets: dict[str, Any]) -> None:
    given = [word for key, value in sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    done = CliRunner().invoke(app, [*words, *given])
    assert done.exit_code == 0, (words, done.output, done.exception)


@pytest.fixture(scope="module")
def home(world: Path, tmp_path_factory: pytest.TempPathFactory, in_process: None) -> Path:
    """A folder as the pages speak of: work/ssv2 with clips, captions, a guide and a run; data; the configs; my.toml."""
    home = tmp_path_factory.mktemp("home")
    ssv2(world, home / "data")
    shutil.copytree(ROOT / "configs", home / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        (home / "my.toml").write_text("")
        data = {"index.data": "data", "index.annotations": "data/labels"}
        call(["run", "my.toml"], {**TINY, **MY, **data, "name": "pretrain"})
        call(["caption", "work/ssv2", "--source", "oracle"], {})
        (home / "my.toml").write_text(
            (home / "work/ssv2/runs/pretrain/config.toml").read_text().replace('name = "pretrain"', 'name = "my"')
        )
        call(["export", "work/ssv2/runs/pretrain", "--to-hf", "FOLDER"], {})
    work = home / "work" / "ssv2"
    for name in ("blip2", "llm"):
        shutil.copytree(work / "captions" / "oracle", work / "captions" / name)
    for name in ("pretrain.0123456789abcdef", "tgm"):
        shutil.copytree(work / "runs" / "pretrain", work / "runs" / name)
    (work / "guides" / ".text-blip2.building" / ".parts").mkdir(parents=True)
    torch.save({"model": load_file(work / "runs" / "pretrain" / "model.safetensors")}, home / "checkpoint.pth")
    return home


def own_classes(page: Path, folder: Path) -> None:
    """The page's examples, `# name.py` in their first line, as files."""
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if name := re.match(r"# (\w+\.py)", block):
            (folder / name.group(1)).write_text(block)


@pytest.mark.parametrize("name", MADE)
def test_a_page(name: str, home: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(home, here, symlinks=True)
    shutil.copytree(here / "work" / "ssv2", here / "work" / "ucf101")
    with working_in(here):
        run_commands(name, here)
    for made in MADE[name]:
        assert read_record(here / "work" / "ssv2" / made) is not None


def run_commands(name: str, here: Path) -> None:
    page = ROOT / "docs" / f"{name}.md"
    own_classes(page, here)
    lines = [line for line in blocks(page) if line.startswith("tgmae ") and not re.search(SKIPPED, line)]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        words = [re.sub("|".join(PLACES), lambda found: PLACES[found[0]], word) for word in words]
        sets = TINY if words[0] in ("pretrain", "finetune", "probe", "retrieve", "guide", "caption", "run") else {}
        extra: dict[str, Any] = {}
        if words[0] in ("pretrain", "finetune", "probe", "retrieve"):
            extra = {"guide": "motion-vectors", "mask.kind": "motion-vectors", "objective.contrastive": 0.0}
        if name == "probe_and_retrieval":  # its config transfers a run of another data set
            extra |= {"model.init": "work/ssv2/runs/pretrain", "retrieve.group": ""}
        if words[0] == "run":
            extra = {"mask.kind": "tube"} if "guide=" in line else {}
        more = ["--yes"] if words[:2] == ["runs", "remove"] else []
        more += ["--rebuild"] if words[0] in ("pretrain", "index") else []
        call([*words, *more], {**sets, **extra})
