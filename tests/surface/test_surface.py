"""The public surface is what surface.txt lists, and what tgmae 0.1.0 wrote is still read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import read_record
from schemas.toml import load_experiment
from schemas.workspace import Workspace
from tests.surface.listing import FILE, surface
from tgmae.status import lines
from train.engine.metrics import read
from train.pretrain import run_pretrain
from train.probe import run_probe
from train.retrieve import run_retrieve

OLD = Path(__file__).with_name("workspace_0.1.0")


def test_the_surface_is_the_one_that_is_listed() -> None:
    """A change is deliberate: `python -m tests.surface.listing` writes the list again, CHANGELOG.md names it."""
    assert surface() == FILE.read_text(encoding="utf-8")


@pytest.fixture
def old(tmp_path: Path) -> Experiment:
    """The experiment of a workspace that tgmae 0.1.0 wrote."""
    shutil.copytree(OLD, tmp_path / "old")
    return load_experiment(
        tmp_path / "old" / "runs" / "text" / "config.toml",
        [f'workspace="{tmp_path / "old"}"', "probe.test_split=test", "pretrain.workers=0"],
    )


def test_an_old_workspace_is_complete_and_current(old: Experiment) -> None:
    states = {line.split()[0]: line.split()[1] for line in lines(Workspace(Path(old.workspace)), failures=0)}
    names = ["manifest", "clips", "captions/blip2", "guides/text-blip2", "runs/text"]
    assert states == dict.fromkeys(names, "complete")
    assert run_pretrain(old) == read_record(Path(old.workspace) / "runs" / "text")


def test_an_old_run_is_evaluated_and_its_shards_train_a_new_one(old: Experiment) -> None:
    assert run_probe(old).counts["test"] == run_retrieve(old).counts["test"] == 2
    new = old.model_copy(update={"name": "new"})
    run_pretrain(new)
    losses = [[line["loss"] for line in read(Path(old.workspace) / "runs" / name / "metrics.jsonl")]
              for name in ("text", "new")]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)  # the same stream, the same weights, on any processor


def test_a_record_of_another_version_is_refused_with_what_to_do(old: Experiment) -> None:
    path = Path(old.workspace) / "clips" / "stage.json"
    path.write_text(path.read_text().replace('"stage": "shard"', '"stage": "shard", "owner": "tomorrow"'))
    with pytest.raises(UserError, match="not a stage record.*rebuild"):
        read_record(path.parent)
