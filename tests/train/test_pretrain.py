"""Pretraining: exact resume, the same curve on any number of processes, and what stops a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.lock import only_writer
from schemas.registry import MASKS
from schemas.stage import read_record
from schemas.toml import dump, load_experiment
from schemas.workspace import Workspace
from tests.train.conftest import write_sidecar
from tests.train.forking import forked_ranks
from tests.train.killing import finish, kill_then_finish
from train.__main__ import main
from train.data.videos import open_videos
from train.engine.checkpoint_files import steps
from train.engine.loop import Loop
from train.engine.metrics import read, truncate
from train.models.objective import build_model, model_config
from train.models.videomae import PretrainModel
from train.pretrain import run_pretrain
from train.specs import pretrain_spec

Small = Callable[..., Experiment]
BOTH = {"contrastive": 1.0, "false_negatives": "drop", "learn_temperature": True}
pytestmark = pytest.mark.timeout(240)


def folder(experiment: Experiment) -> Path:
    return Workspace(Path(experiment.workspace)).run(experiment.name)


def curve(experiment: Experiment) -> list[dict[str, Any]]:
    names = ("step", "loss", "reconstruction", "contrastive", "grad_norm")
    return [{n: line[n] for n in names if n in line} for line in read(folder(experiment) / "metrics.jsonl")]


def weights(experiment: Experiment) -> dict[str, torch.Tensor]:
    return {**load_file(folder(experiment) / "model.safetensors"), **load_file(folder(experiment) / "head.safetensors")}


def written(experiment: Experiment, path: Path) -> Path:
    path.write_text(dump(experiment))
    return path


def assert_close(a: list[dict[str, Any]], b: list[dict[str, Any]], **tolerance: float) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(list(x.values()), list(y.values()), **tolerance)


def test_a_run_leaves_all_it_should(small: Small, capfd: pytest.CaptureFixture[str]) -> None:
    experiment = small(objective=BOTH)
    record = run_pretrain(experiment)
    run = folder(experiment)
    assert record.counts == {"videos": 13, "left_out": 1, "steps": 9, "clips": 36}
    assert record == read_record(run) and load_experiment(run / "config.toml") == experiment
    model = PretrainModel(model_config(experiment))
    model.load_state_dict(load_file(run / "model.safetensors"))
    assert not torch.equal(model.mask_token, build_model(experiment).mask_token)
    lines = read(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert all(line["clips_per_second"] > 0 and 0 <= line["data_wait"] <= 1 for line in lines)
    assert list((run / "tensorboard").glob("events*"))
    said = capfd.readouterr().err
    assert "4 clips = 1 processes x 1 micro-batches x 4 clips" in said and "base_lr 0.02 x 4 / 256" in said
    stamp = (run / "model.safetensors").stat().st_mtime_ns
    assert run_pretrain(experiment) == record and (run / "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.medium
def test_the_loss_falls(small: Small) -> None:
    experiment = small(optim={"epochs": 20, "base_lr": 0.1}, mask={"kind": "tube"}, guide="none")
    run_pretrain(experiment)
    losses = [line["loss"] for line in curve(experiment)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize("kind", MASKS)
def test_every_mask_trains(small: Small, workspace: Workspace, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With dual masking, repeats and, where a guide has none, the texts of another sidecar."""
    guide = {"optical-flow": "optical-flow", "motion-vectors": "motion-vectors", "motion-box": "motion-vectors"}
    for name, maps in (("optical-flow", 4), ("motion-vectors", 1)):
        write_sidecar(workspace, name, maps=maps)
    write_sidecar(workspace, "embeddings-blip2", captions=2, without=2)
    experiment = small(
        guide=guide.get(kind, "text"), mask={"kind": kind, "decoder_ratio": 0.5}, clip={"repeats": 2}, objective=BOTH,
        optim={"epochs": 1, "warmup_epochs": 0},
    )  # fmt: skip
    record = run_pretrain(experiment)
    assert record.counts == {"videos": 13, "left_out": 1, "steps": 6, "clips": 24}
    assert record.inputs["text"] == ("embeddings-blip2-digest" if kind in guide else "guide-digest")
    assert all(np.isfinite(list(line.values())).all() for line in curve(experiment))
    said = capfd.readouterr().err
    assert f"mask: {kind} hides" in said and "decoder: predicts 16 of 32 tokens" in said
    assert "each decoded video gives 2 clips of one batch, 2 videos a batch" in said
    assert "left out: " in said and f"1 videos not in guides/{experiment.text_name}" in said


@pytest.mark.medium
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": BOTH},
        {"objective": {"reconstruction": 0.0, "contrastive": 2.0}},
        {"clip": {"repeats": 2}, "mask": {"decoder_ratio": 0.5, "text_share": (1.0, 0.0)}},
    ],
)
def test_resumed_is_uninterrupted(small: Small, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between checkpoints, resumed with another number of workers: the same losses and weights, bit for bit."""
    whole, parted = small(**changes, name="whole"), small(**changes, name="parted")
    run_pretrain(whole)
    stop_after(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        run_pretrain(parted)
    monkeypatch.undo()
    assert steps(folder(parted))[-1].name == "step_0000004" and read_record(folder(parted)) is None
    run_pretrain(parted.model_copy(update={"pretrain": parted.pretrain.model_copy(update={"workers": 1})}))
    assert curve(whole) == curve(parted)
    assert read_record(folder(whole)).output == read_record(folder(parted)).output  # type: ignore[union-attr]


def stop_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    from train.trainer import Trainer

    original = Trainer._update

    def update(self: Trainer, batches: Any) -> Any:
        if self.step == updates:
            raise KeyboardInterrupt
        return original(self, batches)

    monkeypatch.setattr(Trainer, "_update", update)


@pytest.mark.slow
def test_killed_again_and_again(small: Small, tmp_path: Path) -> None:
    """SIGKILL at moments that nobody chose; what is left in the end is what an undisturbed run leaves."""
    changes = {"objective": BOTH, "optim": {"epochs": 12}, "pretrain": {"workers": 1, "save_every": 3}}
    whole, killed = small(**changes, name="whole"), small(**changes, name="killed")
    finish(["pretrain", str(written(whole, tmp_path / "whole.toml"))])
    config = written(killed, tmp_path / "killed.toml")
    kill_then_finish(["pretrain", str(config)], folder(killed), kills=4)
    assert curve(whole) == curve(killed)
    ours, theirs = weights(whole), weights(killed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and ours.keys() == theirs.keys()


@pytest.mark.slow
@pytest.mark.parametrize("objective", [BOTH, {"reconstruction": 0.0, "contrastive": 1.0}])
def test_two_processes_are_one(small: Small, objective: dict[str, Any]) -> None:
    """Gloo, contrastive loss and batch norm over both: the curve of one process, to rounding. Once by torchrun."""
    changes: dict[str, Any] = {"objective": objective, "optim": {"accumulate": 2, "batch_size": 8, "epochs": 4}}
    one, two = small(**changes, name="one"), small(**changes, name="two", pretrain={"processes": 2})
    run_pretrain(one)
    with nullcontext() if objective == BOTH else forked_ranks():
        record = run_pretrain(two)
    assert "2 processes x 2 micro-batches x 2 clips" in record.info["global batch"]
    assert_close(curve(one), curve(two), rtol=1e-3, atol=1e-5)
    assert_close(curve(one)[:2], curve(two)[:2], rtol=1e-5, atol=0)
    # AdamW makes whole steps of gradients that are nothing but rounding, so a few weights may differ.
    ours, theirs = (torch.cat([t.flatten().double() for t in weights(e).values()]) for e in (one, two))
    assert ((ours - theirs).abs() > 1e-5).double().mean() < 0.01


@pytest.mark.slow
def test_resuming_on_another_number_of_processes(small: Small, monkeypatch: pytest.MonkeyPatch,
                                                 capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    one, moved = small(name="one", objective=BOTH), small(name="moved", objective=BOTH)
    run_pretrain(one)
    stop_after(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        run_pretrain(moved)
    with forked_ranks():
        run_pretrain(moved.model_copy(update={"pretrain": moved.pretrain.model_copy(update={"processes": 2})}))
    assert "it was written by 1 processes, now there are 2" in capfd.readouterr().err
    assert_close(curve(one), curve(moved), rtol=1e-3, atol=1e-5)


def test_accumulated_reconstruction_is_that_of_the_whole_batch(small: Small) -> None:
    whole, parts = (
        small(name="whole", optim={"batch_size": 12}),
        small(name="parts", optim={"batch_size": 12, "accumulate": 3}),
    )
    run_pretrain(whole)
    run_pretrain(parts)
    assert_close(curve(whole), curve(parts), rtol=1e-4)


@pytest.mark.medium
def test_bfloat16_and_checkpointed_activations_follow_float32(small: Small) -> None:
    exact, half = small(name="exact"), small(name="half", pretrain={"precision": "bfloat16"})
    again = small(name="again", model={"checkpoint_activations": True})
    for experiment in (exact, half, again):
        run_pretrain(experiment)
    assert_close(curve(exact), curve(again), rtol=1e-5)
    assert_close([{"loss": x["loss"]} for x in curve(exact)], [{"loss": x["loss"]} for x in curve(half)], rtol=0.02)


def test_clipped_gradients_change_the_update_not_the_norm_reported(small: Small) -> None:
    free, clipped = small(name="free"), small(name="clipped", optim={"clip_grad": 0.01})
    run_pretrain(free)
    run_pretrain(clipped)
    assert curve(free)[0] == curve(clipped)[0]
    assert curve(free)[-1] != curve(clipped)[-1]


def test_another_config_under_the_same_name(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        run_pretrain(small())
    monkeypatch.undo()
    other = small(mask={"ratio": 0.75})
    with pytest.raises(UserError, match=r"another config.*mask\.ratio: 0\.6 -> 0\.75.*--set name=NAME"):
        run_pretrain(other)
    run_pretrain(other, rebuild=True)
    assert [line["step"] for line in curve(other)] == list(range(1, 10))
    with pytest.raises(UserError, match="another config"):  # complete ones are safe, too
        run_pretrain(small(optim={"epochs": 4}))
    assert read_record(folder(other)) is not None


@pytest.mark.medium
def test_a_run_that_was_set_aside_comes_back(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole or to be resumed, and never trained again; the one in its place is set aside in turn."""
    first, second = small(), small(mask={"ratio": 0.75})
    record = run_pretrain(first)
    stop_after(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        run_pretrain(second, rebuild=True)
    monkeypatch.undo()
    with pytest.raises(UserError, match="another config"):  # begun is somebody's work, too
        run_pretrain(first)
    done: list[int] = []
    update = Loop._update
    monkeypatch.setattr(Loop, "_update", lambda self, batches: done.append(self.step) or update(self, batches))
    assert run_pretrain(first, rebuild=True) == record and not done
    begun = pretrain_spec(second).fingerprint
    assert [path.name for path in kept(first)] == [f"pretrain.{begun}"]
    run_pretrain(second, rebuild=True)
    assert done == [4, 5, 6, 7, 8]  # from its own checkpoint
    assert [path.name for path in kept(first)] == [f"pretrain.{record.fingerprint}"]
    assert read_record(kept(first)[0]) == record


def test_what_is_set_aside_is_never_overwritten(small: Small) -> None:
    first, second = small(), small(mask={"ratio": 0.75})
    record = run_pretrain(first)
    shutil.copytree(folder(first), folder(first).with_name(f"pretrain.{record.fingerprint}"))
    (folder(first) / "note.txt").write_text("mine")
    run_pretrain(second, rebuild=True)
    names = [path.name for path in kept(first)]
    assert names == [f"pretrain.{record.fingerprint}", f"pretrain.{record.fingerprint}-2"]
    assert (kept(first)[1] / "note.txt").is_file()


def kept(experiment: Experiment) -> list[Path]:
    return sorted(folder(experiment).parent.glob("pretrain.*"))


def test_a_run_has_one_writer(small: Small) -> None:
    experiment = small()
    with only_writer(folder(experiment)), pytest.raises(UserError, match=r"is being written by process \d+ on "):
        run_pretrain(experiment)
    assert not list(folder(experiment).glob("*"))
    run_pretrain(experiment)


@pytest.mark.medium
def test_a_torn_checkpoint_is_passed_over(small: Small, monkeypatch: pytest.MonkeyPatch,
                                          capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    whole, torn = small(name="whole"), small(name="torn")
    run_pretrain(whole)
    stop_after(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        run_pretrain(torn)
    monkeypatch.undo()
    last = steps(folder(torn))[-1]
    data = (last / "optimizer.safetensors").read_bytes()
    (last / "optimizer.safetensors").write_bytes(data[: len(data) // 2])
    run_pretrain(torn)
    said = capfd.readouterr().err
    assert f"{last} is damaged" in said and "resumed after update 4 of 9" in said
    assert curve(whole) == curve(torn)


def test_what_is_not_finite_stops_the_run(small: Small) -> None:
    experiment = small(objective=BOTH, optim={"base_lr": 1e15, "warmup_epochs": 0})
    with pytest.raises(UserError, match=r"update \d+ \(epoch \d.*is not finite: .*contrastive nan") as caught:
        run_pretrain(experiment)
    report = json.loads((folder(experiment) / "nonfinite_rank0.json").read_text())
    keys = open_videos(Workspace(Path(experiment.workspace))).all_keys()
    assert set(report["keys"]) <= set(keys) and f"update {report['step']} " in str(caught.value)
    for path in steps(folder(experiment)):
        assert all(t.isfinite().all() for t in load_file(path / "model.safetensors").values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"batch_size": 16}}, "13 videos to train on, too few for one batch of 16"),
        ({"pretrain": {"device": "cuda:31"}}, "cuda:31"),
        ({"pretrain": {"device": "gpu"}}, "'gpu' is not known"),
        ({"objective": {"contrastive": 1.0, "temperature": 0.001}}, "objective.temperature"),
        ({"captions": "oracle"}, "run `tgmae guide"),
    ],
)
def test_what_cannot_be_trained(small: Small, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_pretrain(small(**changes))


def test_the_command_line(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(small(), tmp_path / "config.toml")
    assert main(["pretrain", str(config), "--set", "optim.epochs=2", "--set", "name=two"]) == 0
    assert main(["pretrain", str(config), "--set", "optim.epoch=2"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'optim.epochs'" in said and "Traceback" not in said


def test_metrics_of_undone_updates_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    assert [line["step"] for line in read(path)] == [1, 2, 3]
    truncate(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
