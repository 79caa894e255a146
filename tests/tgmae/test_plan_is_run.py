"""What `tgmae run --plan` says is what `tgmae run` does, whatever was changed in the config or on disk before.

The stages are the real ones, but for what only costs time: processes that guard decoders, and updates of training.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import caption, index, shard, stage_specs
from pipeline.guides import Scores, text
from pipeline.runtime import kept, stage_build
from pipeline.world.write import write_world
from schemas.config import Experiment
from schemas.errors import MissingInput, UserError
from schemas.stage import replaced_folder
from schemas.toml import load_experiment
from schemas.workspace import Workspace
from tgmae import stages
from tgmae.run import DATA, Step, plan, run, run_one
from tgmae.runs.changes import restore
from tgmae.runs.inventory import Item, inventory
from tgmae.shipped_files import WORLD_MODELS
from train.__main__ import COMMANDS
from train.engine import checkpoint
from train.engine import record as records
from train.engine.loop import Loop
from train.engine.run_folder import KEPT
from train.specs import training_part

BASE = {
    "ray.address": "none", "max_failures": "99%", "allow_fewer": True, "captions": "oracle", "guide": "embeddings",
    "mask.kind": "tube", "stages": ["pretrain", "finetune", "probe"], "clip.frames": 4, "clip.size": 32,
    "model.size": "tiny", "model.patch": 8, "optim.epochs": 1, "optim.warmup_epochs": 0, "optim.batch_size": 1,
    "pretrain.workers": 0, "pretrain.precision": "float32", "pretrain.device": "cpu", "pretrain.save_every": 1,
    "finetune.save_every": 1, "finetune.epochs": 1, "finetune.warmup_epochs": 0, "finetune.batch_size": 1,
    "finetune.mixup": 0, "finetune.cutmix": 0, "finetune.temporal_views": 1, "finetune.spatial_views": 1,
    "finetune.rand_augment": "", "probe.views": 1, "probe.untrained": False, "probe.linear.epochs": 1,
    "probe.linear.warmup_epochs": 0, "text.model": f"local-dir:{WORLD_MODELS / 'clip'}",
    "shard.max_videos": 1, "caption.videos_per_shard": 1,
}  # fmt: skip
CHANGES: dict[str, list[Any]] = {
    "captions": ["oracle", "oracle.other"], "caption.oracle.template": ["{}", "a {}"],
    "caption.videos_per_shard": [1, 2], "shard.crf": [23, 30], "guide": ["embeddings", "none", "motion-vectors"],
    "objective.contrastive": [0.0, 1.0], "optim.base_lr": [1e-4, 2e-4], "finetune.smoothing": [0.1, 0.2],
    "finetune.temporal_views": [1, 2], "probe.neighbours": [20, 10], "name": ["pretrain", "other"],
    "stages": [["pretrain", "finetune", "probe"], ["pretrain"], ["pretrain", "probe"]], "index.split": [1, 2],
}  # fmt: skip


class Fuse:
    """Stops a run at one of the places where a stage keeps something: as if it were killed there."""

    left: int | None = None

    def burn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise KeyboardInterrupt


FUSE = Fuse()


class InThisProcess:
    def __init__(self, work: Callable[[Any], Any], **_: Any) -> None:
        self.run = work


class Embedder:
    """Instead of CLIP, whose import takes longer than the test."""

    def __init__(self, text: Any) -> None:
        pass

    def score(self, chunks: Any, captions: list[str]) -> Scores:
        return Scores(None, np.ones((len(captions), 4), np.float32) / 2)


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    def fused(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            FUSE.burn()
            return function(*arguments, **options)

        return call

    def train(self: Loop) -> None:
        while self.step < self.plan.total:
            self.step, self.recent = self.step + 1, [0.5]
            self._save()

    def in_process(command: str, experiment: Experiment, *options: str) -> None:
        COMMANDS[command](experiment, "--rebuild" in options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "Isolated", InThisProcess)
        patch.setattr(caption, "Isolated", InThisProcess)
        patch.setattr(index, "map_processes", lambda work, tasks, **_: enumerate(map(work, tasks)))
        patch.setattr(kept, "keep_result", fused(kept.keep_result))
        for module in (stage_build, index, records):
            patch.setattr(module, "write_record", fused(module.write_record))  # type: ignore[attr-defined]
        patch.setattr(text, "_make_embeddings", Embedder)
        patch.setattr(checkpoint, "save", fused(checkpoint.save))
        patch.setattr(Loop, "train", train)
        patch.setattr(stages, "_train", in_process)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, quick: None) -> Path:
    """A folder with data and a workspace in which everything is current, two runs of one name among it."""
    root = tmp_path_factory.mktemp("finished")
    write_world(root / "data", videos=3, size=32, test_share=1 / 3, workers=1)
    for changes in ({"optim.base_lr": 2e-4}, {"finetune.smoothing": 0.2}, {}):
        run(experiment(root, changes), lambda line: None)
    return root


def experiment(root: Path, changes: dict[str, Any]) -> Experiment:
    keys = {**BASE, "workspace": str(root / "work"), "index.data": str(root / "data"), **changes}
    return load_experiment(None, [f"{key}={json.dumps(value)}" for key, value in keys.items()])


def files(root: Path) -> list[Path]:
    return sorted(path for path in (root / "work").rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def spoil(root: Path, how: str, number: int) -> None:
    """One thing that happens to workspaces: by people, full disks and power cuts."""
    found = files(root)
    path = found[number % len(found)] if found else root / "none"
    records = [path for path in found if path.name == "stage.json"]
    stage = records[number % len(records)].parent if records else root / "none"
    if how == "delete" and found:
        path.unlink()
    elif how == "cut" and found:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "drop" and records:
        shutil.rmtree(stage)
    elif how == "unrecord" and records:
        (stage / "stage.json").unlink()
    elif how == "garble" and records:
        (stage / "stage.json").write_text("{")
    elif how == "swap" and records and stage.name[0] != "." and not (stage / "checkpoints").exists():
        if replaced_folder(stage).exists():
            return
        stage.rename(replaced_folder(stage))
    elif how == "touch":
        videos = sorted((root / "data").rglob("*.mp4"))
        video = videos[number % len(videos)]
        video.write_bytes(video.read_bytes())
    elif how == "restore":
        workspace = Workspace(root / "work")
        kept = [item for item in inventory(workspace) if item.kind == "kept"]
        if kept:
            restore(workspace, kept[number % len(kept)].name)


def trained(root: Path) -> dict[Path, str]:
    """The fingerprint of what was trained in each folder, finished or begun."""
    folders = [path for pattern in ("*", "*/finetune*") for path in (root / "work" / "runs").glob(pattern)]
    found = {path: Item("", path, "run").record for path in folders if path.is_dir()}
    return {
        path: (training_part(record) if record.stage == "finetune" else record).fingerprint
        for path, record in found.items()
        if record is not None
    }


def done(experiment: Experiment) -> tuple[list[str], str]:
    """The lines that a run says, and the message that ends it, if one does."""
    lines: list[str] = []
    try:
        run(experiment, lines.append)
    except UserError as error:
        return lines, str(error)
    return lines, ""


def planned_or_refused(experiment: Experiment) -> tuple[list[Step], str]:
    try:
        return plan(experiment), ""
    except UserError as error:
        return [], str(error)


EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from(sorted(CHANGES)), st.integers(0, 2)),
        st.tuples(
            st.sampled_from(["delete", "cut", "drop", "unrecord", "garble", "swap", "touch", "restore"]),
            st.just(""), st.integers(0, 10_000),
        ),
        st.tuples(st.just("stop"), st.just(""), st.integers(0, 16)),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


def test_another_test_of_a_finished_finetuning_asks_for_nothing(finished: Path, tmp_path: Path) -> None:
    """docs/finetune.md: views, split and `missing` may be changed afterwards; the weights stay."""
    root = tmp_path / "again"
    shutil.copytree(finished, root, symlinks=True)
    lines: list[str] = []
    run_one("finetune", experiment(root, {"finetune.temporal_views": 2}), lines.append)
    assert lines[0].split()[:2] == ["finetune", "resume"] and "testing.temporal_views: 1 -> 2" in lines[0]
    with pytest.raises(UserError, match="--rebuild moves it aside"):
        run_one("finetune", experiment(root, {"finetune.dropout": 0.5}), lines.append)


def test_the_data_folder_is_listed_once(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a plan, and by a run that has nothing to do: it may have 200 000 files."""
    root = tmp_path / "listed"
    shutil.copytree(finished, root, symlinks=True)
    asked, listed = experiment(root, {}), []
    run(asked, lambda line: None)
    listing = stage_specs.listing_digest
    monkeypatch.setattr(
        stage_specs, "listing_digest", lambda *given, **more: listed.append(given) or listing(*given, **more)
    )
    plan(asked)
    assert len(listed) == 1
    run(asked, lambda line: None)
    assert len(listed) == 2


def test_only_the_stages_that_are_named_are_planned(finished: Path) -> None:
    """The world table's second world: its data is current, and the run that is probed on it is still to come."""
    asked, lines = experiment(finished, {"stages": ["probe"], "name": "to-come"}), list[str]()
    with pytest.raises(MissingInput):
        run(asked, lines.append)
    run(asked, lines.append, only=DATA)
    assert lines and all(line.split()[1] == "current" for line in lines)


@pytest.mark.slow
@given(edits=EDITS)
@example(edits=[("delete", "", 0), ("restore", "", 1)])  # captions are missing, and an older run was taken back
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_what_the_plan_says_is_what_the_run_does(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, str, int]]
) -> None:
    root = tmp_path_factory.mktemp("edited")
    shutil.copytree(finished / "work", root / "work", symlinks=True)
    shutil.copytree(finished / "data", root / "data")
    check(root, edits)
    shutil.rmtree(root)


def check(root: Path, edits: list[tuple[str, str, int]]) -> None:
    changes: dict[str, Any] = {}
    for how, key, number in edits:
        if how == "set":
            changes[key] = CHANGES[key][number % len(CHANGES[key])]
        elif how == "stop":
            FUSE.left = number
            with suppress(KeyboardInterrupt):
                done(experiment(root, changes))
            FUSE.left = None
        else:
            spoil(root, how, number)
    asked = experiment(root, changes)
    before = {path: path.stat().st_mtime_ns for path in files(root)}
    planned, refused = planned_or_refused(asked)
    if refused:
        assert done(asked) == ([], refused)
        return
    assert {path: path.stat().st_mtime_ns for path in files(root)} == before  # a plan touches nothing
    runs = trained(root)
    lines, problem = done(asked)
    if problem:  # where a plan cannot look: in a stage whose input is not complete yet
        assert planned[len(lines)].action == "pending", (problem, planned)
        return
    assert len(lines) == len(planned)
    for step, line in zip(planned, lines, strict=True):
        if step.action != "pending":
            assert line == step.line("is")
    announced = {move.source for step in planned for move in step.moves}
    after = trained(root)
    for folder, fingerprint in runs.items():
        assert fingerprint in after.values()  # no run is lost, finished or begun
        # Of a stage whose input was not complete yet, alone or with the run that it is of.
        came_back = any(KEPT.search(each.name) for each in (folder, folder.parent))
        assert after.get(folder) == fingerprint or came_back or announced & {folder, *folder.parents}
    assert {step.action for step in plan(asked)} == {"current"}
