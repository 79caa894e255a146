"""`tgmae runs`: what is listed, renamed, restored and removed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.lock import only_writer
from schemas.stage import StageRecord, StageSpec, damage, read_record, stored_files, write_record
from schemas.toml import dump, load_experiment
from schemas.workspace import Workspace
from tgmae.cli import app
from tgmae.runs.changes import removable, remove, rename, restore
from tgmae.runs.inventory import find, inventory


def make_run(workspace: Workspace, folder: str, epochs: int, finished: bool = True) -> StageRecord:
    """A run as training leaves it, its weights a few bytes."""
    path = workspace.root / "runs" / folder
    path.mkdir(parents=True)
    config = Experiment(workspace=str(workspace.root), name=folder, optim={"epochs": epochs, "warmup_epochs": 0})  # type: ignore[arg-type]
    (path / "config.toml").write_text(dump(config))
    (path / "model.safetensors").write_bytes(b"weights")
    spec = StageSpec("pretrain", path, {"optim": {"epochs": epochs}}, {"clips": "c"})
    known = {"schema_version": 1, "fingerprint": spec.fingerprint, "config": spec.config, "inputs": spec.inputs}
    state = {"format": 2, "files": {}, "position": {"step": 4, "loss": 0.5}, "spec": known}
    step = path / "checkpoints" / "step_0000004"
    step.mkdir(parents=True)
    (step / "state.json").write_text(json.dumps(state))
    record = StageRecord(stage="pretrain", fingerprint=spec.fingerprint, config=spec.config, inputs=spec.inputs,
                         output="o", counts={}, failed={}, tools={}, seconds=1,
                         files=stored_files(path, {"config.toml": "x", "model.safetensors": "y"}))  # fmt: skip
    if finished:
        write_record(path, record)
    return record


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A run, the one that it took the place of, one that was stopped, a rebuild that was stopped."""
    workspace = Workspace(tmp_path / "work")
    make_run(workspace, "base", 3)
    make_run(workspace, "base.0123456789abcdef", 2)
    make_run(workspace, "other", 4, finished=False)
    (workspace.root / "runs" / "base" / "finetune.0123456789abcdef").mkdir()
    (workspace.root / "guides" / ".text-blip2.building" / ".parts").mkdir(parents=True)
    return workspace


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


def test_what_is_listed(workspace: Workspace) -> None:
    done = call(workspace.root)
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line for line in done.output.splitlines()}
    assert list(lines) == [
        "base", "base/finetune.0123456789abcdef", "base.0123456789abcdef", "differs", "other",
        "guides/.text-blip2.building",
    ]  # fmt: skip
    assert "complete" in lines["base"] and "3 epochs" in lines["base"]
    assert "differs from base: optim.epochs: 2 -> 3" in lines["differs"]
    assert "incomplete" in lines["other"] and "stopped at update 4" in lines["other"]
    assert "the same command resumes it" in lines["guides/.text-blip2.building"]


def test_a_run_that_is_written_is_said_and_left_alone(workspace: Workspace) -> None:
    run = workspace.run("base")
    for place in (run, run / "finetune"):
        with only_writer(place):
            assert "running" in call(workspace.root).output.splitlines()[0]
            for action in (("rename", workspace.root, "base", "new"), ("remove", workspace.root, "base", "--yes"),
                           ("restore", workspace.root, "base.0123456789abcdef")):  # fmt: skip
                refused = call(*action)
                assert refused.exit_code == 2 and "is being written by process" in refused.output
        assert (run / "stage.json").is_file()


def test_a_renamed_run_is_whole_and_knows_its_name(workspace: Workspace) -> None:
    before = read_record(workspace.run("base"))
    folder = rename(workspace, "base", "text-60")
    record = read_record(folder)
    assert record is not None and before is not None and not damage(folder, record)
    assert (record.fingerprint, record.output) == (before.fingerprint, before.output)
    assert load_experiment(folder / "config.toml").name == "text-60"
    assert not workspace.run("base").exists()
    assert rename(workspace, "base.0123456789abcdef", "old").name == "old"  # one of its own now
    assert find(inventory(workspace), "runs/old/").kind == "run"


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("other", "there is a run 'other'"),
        ("../out", "not usable"),
        ("x.0123456789abcdef", "set aside"),
        ("", "usable"),
    ],
)
def test_names_that_cannot_be_given(workspace: Workspace, new: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        rename(workspace, "base", new)
    assert workspace.run("base").is_dir()


def test_restored_and_restored_again(workspace: Workspace) -> None:
    now, then = (read_record(workspace.run(name)) for name in ("base", "base.0123456789abcdef"))
    assert now is not None
    moves = restore(workspace, "base.0123456789abcdef")
    assert [(a.name, b.name) for a, b in moves] == [
        ("base", f"base.{now.fingerprint}"), ("base.0123456789abcdef", "base"),
    ]  # fmt: skip
    assert read_record(workspace.run("base")) == then
    restore(workspace, f"base.{now.fingerprint}")
    assert read_record(workspace.run("base")) == now
    with pytest.raises(UserError, match="was not set aside"):
        restore(workspace, "base")


def test_removing_asks_and_takes_what_is_named_alone(workspace: Workspace) -> None:
    names = ["base.0123456789abcdef", "guides/.text-blip2.building", "base/finetune.0123456789abcdef"]
    refused = call("remove", workspace.root, *names)  # no terminal to ask on
    assert refused.exit_code == 2 and "--yes" in refused.output
    assert len(inventory(workspace)) == 5
    assert call("remove", workspace.root, *names, "--yes").exit_code == 0
    assert [item.name for item in inventory(workspace)] == ["base", "other"]


def test_the_action_may_stand_behind_the_workspace(workspace: Workspace) -> None:
    name = sorted(path.name for path in (workspace.root / "runs").iterdir() if not path.name.startswith("."))[0]
    assert call(workspace.root, "rename", name, "elsewhere").exit_code == 0
    assert (workspace.root / "runs" / "elsewhere").is_dir() and not (workspace.root / "runs" / name).exists()


def test_a_removal_that_was_stopped_leaves_no_half_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", stop)
        remove(removable(workspace, ["base"])[0])
    names = [item.name for item in inventory(workspace)]
    assert "base" not in names and "runs/.base.removed" in names
    remove(removable(workspace, ["runs/.base.removed"])[0])
    assert "runs/.base.removed" not in [item.name for item in inventory(workspace)]


@pytest.mark.parametrize("name", ["../data", "/", ".", "", "runs", "base/finetune", "bsae", "guides/text-blip2"])
def test_nothing_but_what_is_listed_is_removed(workspace: Workspace, name: str) -> None:
    (workspace.root.parent / "data").mkdir()
    (workspace.root / "guides" / "text-blip2").mkdir()
    refused = call("remove", workspace.root, name, "--yes")
    assert refused.exit_code == 2 and "unknown run" in refused.output
    assert len(inventory(workspace)) == 5 and (workspace.root.parent / "data").is_dir()
    assert name != "bsae" or "Did you mean 'base'?" in refused.output


def test_a_link_is_left_to_its_owner(workspace: Workspace) -> None:
    outside = workspace.root.parent / "outside"
    outside.mkdir()
    (outside / "stage.json").write_text("{}")
    (workspace.root / "runs" / "linked").symlink_to(outside)
    with pytest.raises(UserError, match="is a link"):
        removable(workspace, ["linked"])
    assert (outside / "stage.json").is_file()
    assert "damaged" in next(line for line in call(workspace.root).output.splitlines() if line.startswith("linked"))


def test_mistakes_are_answered(tmp_path: Path) -> None:
    assert "did you mean 'rename'" in call("renam", tmp_path, "a", "b").output
    assert "no runs in" in call(tmp_path).output
    assert "is not a folder" in call(tmp_path / "none").output
