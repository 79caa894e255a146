"""Fine-tuning: exact resume, the same on any number of processes, where weights come from, and what a test counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import read_record
from schemas.tables import CLIP_INDEX, LOST, MANIFEST, read_table, video_key, write_table
from schemas.toml import dump, load_experiment
from schemas.workspace import Workspace
from tests.train.data.test_views import spoil
from tests.train.forking import forked_ranks
from tests.train.killing import finish, kill_then_finish
from train.__main__ import main
from train.data.labelled import LabelledDataset
from train.data.videos import open_videos
from train.engine.checkpoint_files import steps
from train.engine.loop import Loop
from train.engine.metrics import read
from train.evaluation.results import Result, read_result
from train.finetune import Data, Tuner, run_finetune
from train.pretrain import run_pretrain

Small = Callable[..., Experiment]
Tune = Callable[..., Experiment]
ROOT = Path(__file__).parents[2]
TUNE: dict[str, Any] = {
    "epochs": 3, "batch_size": 4, "repeats": 2, "base_lr": 0.05, "warmup_epochs": 1, "save_every": 2,
    "temporal_views": 2, "spatial_views": 3,
}  # fmt: skip
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def tune(small: Small) -> Tune:
    """tune(seed=1, stages=["finetune"], model={...}): an experiment of seconds; plain options are finetune's."""

    def make(**changes: Any) -> Experiment:
        sections = {
            name: changes.pop(name) for name in ("name", "stages", "model", "pretrain", "clip") if name in changes
        }
        return small(**{"stages": ["finetune"], **sections}, finetune={**TUNE, **changes})

    return make


def folder(experiment: Experiment) -> Path:
    return Workspace(Path(experiment.workspace)).run(experiment.name) / "finetune"


def result(experiment: Experiment) -> Result:
    return read_result(folder(experiment) / "result.json")


def curve(experiment: Experiment) -> list[dict[str, Any]]:
    return [{n: line[n] for n in ("step", "loss", "grad_norm")} for line in read(folder(experiment) / "metrics.jsonl")]


def predictions(experiment: Experiment) -> dict[str, Any]:
    return pq.read_table(folder(experiment) / "predictions.parquet").to_pydict()


def relabel(workspace: Workspace, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> None:
    """In the index, which is where labels are read from."""
    path = workspace.clips / "index.parquet"
    rows = read_table(path, CLIP_INDEX).to_pylist()
    write_table(path, [{**row, **change(number, row)} for number, row in enumerate(rows)], CLIP_INDEX)


def splits(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return {"split": "test" if number % 4 >= 2 else "train"}


def test_a_run_leaves_all_it_should(tune: Tune, workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    experiment = tune()
    record = run_finetune(experiment)
    run, found = folder(experiment), result(experiment)
    asked = experiment.model_copy(update={"finetune": experiment.finetune.model_copy(update={"test_split": "test"})})
    assert record == read_record(run) and load_experiment(run / "config.toml") == asked
    assert record.counts == {"train": 10, "test": 4, "unread": 0, "absent": 0, "classes": 2,
                             "classes_without_training": 0, "steps": 6}  # fmt: skip
    assert [line["step"] for line in read(run / "metrics.jsonl")] == list(range(1, 7))
    assert load_file(run / "model.safetensors")["head.weight"].shape == (2, 96)
    assert found.kind == "finetune" and found.experiment == asked.model_dump(mode="json")
    assert found.dataset == "clips-digest" and found.checkpoint.source == "untrained"
    assert found.views == {"sampling": "dense", "temporal": 2, "spatial": 3} and found.date.endswith("+00:00")
    said = capfd.readouterr().err
    assert "encoder: untrained, for `stages` has no pretrain and model.init names no weights" in said
    assert "4 clips = 1 processes x 1 micro-batches x 4 clips" in said and "2 of each decoded video" in said
    stamp = (run / "model.safetensors").stat().st_mtime_ns
    assert run_finetune(experiment) == record and (run / "model.safetensors").stat().st_mtime_ns == stamp


def test_numbers_follow_from_the_predictions(tune: Tune) -> None:
    """What result.json and the tables say, counted by scikit-learn from predictions.parquet."""
    experiment = tune()
    run_finetune(experiment)
    table, metrics = predictions(experiment), result(experiment).metrics
    scores, labels = np.array(table["scores"]), np.array(table["label"])
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
    assert scores.argmax(1).tolist() == table["prediction"] == [five[0] for five in table["top5"]]
    assert metrics["top1"] == (scores.argmax(1) == labels).mean() and metrics["top5"] == 1
    if len(set(table["prediction"])) == 2:
        assert metrics["mean_class"] == pytest.approx(balanced_accuracy_score(labels, table["prediction"]))
    rows = pq.read_table(folder(experiment) / "confusion.parquet").to_pylist()
    matrix = confusion_matrix(labels, table["prediction"], labels=[0, 1])
    assert {(row["label"], row["prediction"]): row["videos"] for row in rows} == {
        (i, j): matrix[i, j] for i, j in np.argwhere(matrix).tolist()
    }
    for row in pq.read_table(folder(experiment) / "classes.parquet").to_pylist():
        of_class = labels == row["label"]
        assert (row["name"], row["train"], row["test"]) == (("slow", "fast")[row["label"]], 5, of_class.sum())
        assert row["top1"] == (scores[of_class].argmax(1) == row["label"]).mean()


@pytest.mark.medium
def test_it_learns(tune: Tune, workspace: Workspace) -> None:
    """The colour of a bar, in twenty passes over ten videos, from nothing: the others are all told right."""
    relabel(workspace, lambda n, row: {"label": n % 3, "label_text": ("red", "green", "blue")[n % 3]})
    plain = {"mixup": 0, "cutmix": 0, "rand_augment": "", "erasing": 0, "drop_path": 0, "area": [0.9, 1], "repeats": 1}
    experiment = tune(**plain, epochs=20, base_lr=0.15)
    run_finetune(experiment)
    losses = [line["loss"] for line in curve(experiment)]
    assert losses[0] == pytest.approx(np.log(3), abs=0.02) and np.mean(losses[-4:]) < 0.6 * losses[0]
    assert result(experiment).metrics["top1"] == 1


RECIPES: list[dict[str, Any]] = [
    {"dropout": 0.2, "clip_grad": 1.0},
    {"sampling": "segments", "accumulate": 2, "mixup": 0, "cutmix": 0},
]


@pytest.mark.medium
@pytest.mark.parametrize("recipe", RECIPES)
def test_resumed_is_uninterrupted(tune: Tune, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between checkpoints, resumed with another number of workers: the same losses and weights, bit for bit."""
    whole, parted = tune(**recipe, name="whole"), tune(**recipe, name="parted")
    run_finetune(whole)
    original = Loop._update

    def update(self: Loop, batches: Any) -> Any:
        if self.step == 5:
            raise KeyboardInterrupt
        return original(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_update", update)
        with pytest.raises(KeyboardInterrupt):
            run_finetune(parted)
    assert steps(folder(parted))[-1].name == "step_0000004" and read_record(folder(parted)) is None
    run_finetune(parted.model_copy(update={"pretrain": parted.pretrain.model_copy(update={"workers": 1})}))
    assert curve(whole) == curve(parted) and predictions(whole) == predictions(parted)
    assert read_record(folder(whole)).output == read_record(folder(parted)).output  # type: ignore[union-attr]


@pytest.mark.slow
def test_killed_again_and_again(tune: Tune, tmp_path: Path) -> None:
    """SIGKILL at moments that nobody chose, the test among them; the end is that of an undisturbed run."""
    changes: dict[str, Any] = {"epochs": 8, "pretrain": {"workers": 1}}
    whole, killed = tune(**changes, name="whole"), tune(**changes, name="killed")
    config = tmp_path / "whole.toml"
    config.write_text(dump(whole))
    finish(["finetune", str(config)])
    config = tmp_path / "killed.toml"
    config.write_text(dump(killed))
    kill_then_finish(["finetune", str(config)], folder(killed), kills=3)
    assert curve(whole) == curve(killed) and predictions(whole) == predictions(killed)
    assert read_record(folder(whole)).output == read_record(folder(killed)).output  # type: ignore[union-attr]


@pytest.mark.slow
def test_two_processes_are_one(tune: Tune) -> None:
    """Joined by gloo: the curve of one process, to rounding, mixing and all; every test video counted once."""
    changes: dict[str, Any] = {"batch_size": 8, "accumulate": 2, "drop_path": 0, "epochs": 4}
    one, two = tune(**changes, name="one"), tune(**changes, name="two", pretrain={"processes": 2})
    run_finetune(one)
    with forked_ranks():
        record = run_finetune(two)
    assert "2 processes x 2 micro-batches x 2 clips" in record.info["global batch"]
    for x, y in zip(curve(one), curve(two), strict=True):
        np.testing.assert_allclose(list(x.values()), list(y.values()), rtol=1e-3)
    ours, theirs = predictions(one), predictions(two)
    assert ours["key"] == theirs["key"] and None not in theirs["prediction"]
    np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=1e-3)


def test_other_views_test_again_and_train_nothing(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_finetune(tune())

    def update(self: Loop, batches: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(Loop, "_update", update)
    second = run_finetune(tune(temporal_views=1, spatial_views=1))
    assert first.output == second.output and first.fingerprint != second.fingerprint
    assert result(tune()).views["temporal"] == 1


@pytest.mark.medium
def test_another_config_under_the_same_name(tune: Tune) -> None:
    record = run_finetune(tune())
    other = tune(smoothing=0.2)
    with pytest.raises(UserError, match=r"another config.*finetune\.smoothing: 0\.1 -> 0\.2.*--set name=NAME"):
        run_finetune(other)
    run_finetune(other, rebuild=True)
    aside = [path for path in folder(other).parent.iterdir() if path.name.startswith("finetune.")]
    assert [read_record(path) for path in aside] == [record]


@pytest.mark.medium
def test_the_encoder_is_the_pretrained_one(tune: Tune, small: Small, workspace: Workspace) -> None:
    experiment = tune(stages=["pretrain", "finetune"])
    with pytest.raises(UserError, match="run `tgmae pretrain"):
        run_finetune(experiment)
    run_pretrain(experiment)
    run = workspace.run(experiment.name)
    before = load_file(run / "model.safetensors")
    model = tuner(experiment).model.state_dict()
    for name, tensor in model.items():
        assert name.startswith(("fc_norm.", "head.")) or torch.equal(tensor, before[name])
    record = run_finetune(experiment)
    found = result(experiment).checkpoint
    assert str(run) in found.source and found.sha256 == read_record(run).output  # type: ignore[union-attr]
    assert record.inputs["pretrain"] == found.sha256


def tuner(experiment: Experiment) -> Tuner:
    from train.engine.distributed import Ranks
    from train.specs import finetune_training_spec

    return Tuner(experiment, finetune_training_spec(experiment), Ranks(0, 1, torch.device("cpu")), Data(experiment))


def test_learning_rates_fall_from_the_head_to_the_pixels(tune: Tune) -> None:
    made = tuner(tune(layer_decay=0.5))
    rates = {name: group["lr_scale"] for group in made.optimizer.param_groups for name in group["names"]}
    assert rates["model.head.weight"] == 1 and rates["model.encoder.blocks.3.mlp.fc1.weight"] == 0.5
    assert (
        rates["model.encoder.blocks.0.norm1.weight"] == 0.5**4
        and rates["model.encoder.patch_embed.proj.bias"] == 0.5**5
    )
    assert made.model.encoder.blocks[3].drop_path.drop_prob == pytest.approx(0.1)  # type: ignore[union-attr]


def test_a_head_for_the_same_classes_is_kept(
    tune: Tune, workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    first = tune(name="first")
    run_finetune(first)
    again = tune(name="again", model={"init": str(folder(first))})
    before, model = load_file(folder(first) / "model.safetensors"), tuner(again).model.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.items())
    assert "which has the same classes" in capfd.readouterr().err
    workspace.manifest.mkdir()
    (workspace.manifest / "classes.json").write_text(json.dumps({"classes": ["slow", "fast", "still"]}))
    model = tuner(again).model.state_dict()
    assert model["head.weight"].shape == (3, 96) and torch.equal(
        model["encoder.patch_embed.proj.bias"], before["encoder.patch_embed.proj.bias"]
    )
    said = capfd.readouterr().err
    assert "head: untrained, for" in said and "is a classifier of other classes: 2 (slow, fast), here are 3" in said


def test_weights_of_another_size(tune: Tune) -> None:
    first = tune(name="first")
    run_finetune(first)
    with pytest.raises(UserError, match=r"do not fit the experiment.*set model\.patch = 8"):
        run_finetune(tune(name="second", model={"init": str(folder(first)), "patch": 16}))


def test_verbs_and_nouns(tune: Tune, workspace: Workspace) -> None:
    """Two heads; an action is right when the product of its verb and its noun is the greatest of all actions'."""
    names = ["cut onion", "wash onion", "wash pan"]  # two verbs, two nouns; the third action has no video
    groups = {"verb": {"names": ["cut", "wash"], "of_class": [0, 1, 1]},
              "noun": {"names": ["onion", "pan"], "of_class": [0, 0, 1]}}  # fmt: skip
    workspace.manifest.mkdir()
    (workspace.manifest / "classes.json").write_text(json.dumps({"classes": names, "groups": groups}))
    experiment = tune(heads="verb-noun")
    record = run_finetune(experiment)
    assert load_file(folder(experiment) / "model.safetensors")["head.weight"].shape == (4, 96)
    assert {"loss", "verb", "noun"} <= read(folder(experiment) / "metrics.jsonl")[0].keys()
    table, metrics = predictions(experiment), result(experiment).metrics
    verb, noun, labels = (np.array(table[name]) for name in ("verb", "noun", "label"))
    scores = np.stack([verb[:, v] * noun[:, n] for v, n in ((0, 0), (1, 0), (1, 1))], 1)
    np.testing.assert_allclose(table["scores"], scores, rtol=1e-5)
    assert metrics["top1"] == (scores.argmax(1) == labels).mean()
    assert metrics["verb_top1"] == (verb.argmax(1) == labels).mean()  # classes 0 and 1 are verbs 0 and 1
    assert metrics["noun_top1"] == (noun.argmax(1) == 0).mean() and metrics["noun_top5"] == 1
    assert record.counts["classes"] == 3


def test_missing_videos_are_wrong_or_left_out_and_always_said(
    tune: Tune, workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """One is damaged, one was never sharded, one was not even there."""
    relabel(workspace, splits)
    workspace.manifest.mkdir()
    lost = {"key": video_key("lost.mp4"), "video_id": "lost.mp4", "path": "lost.mp4", "label": 1, "split": "test",
            "frames": 9, "fps": 12.0, "width": 9, "height": 9, "rotation": 0, "codec": "h264", "duration": 1.0,
            "bytes": 9}  # fmt: skip
    elsewhere = {**lost, "key": video_key("train.mp4"), "video_id": "train.mp4", "split": "train"}
    rows = read_table(workspace.clips / "index.parquet", CLIP_INDEX).to_pylist()
    known = [{**lost, **{name: row[name] for name in ("key", "video_id", "label", "split")}} for row in rows]
    write_table(workspace.manifest / "manifest.parquet", [*known, lost, elsewhere], MANIFEST)
    gone = [{"key": video_key(name), "video_id": name, "label": 0, "split": split}
            for name, split in (("gone", "test"), ("away", "train"))]  # fmt: skip
    write_table(workspace.manifest / "lost.parquet", gone, LOST)
    run_finetune(tune())
    before = predictions(tune())
    assert before["video_id"][-2:] == ["lost.mp4", "gone"] and before["prediction"][-2:] == [None, None]
    spoil(workspace, row=6)
    wrong = run_finetune(tune(temporal_views=1))
    assert "could not be read" in capfd.readouterr().err and (wrong.counts["unread"], wrong.counts["absent"]) == (1, 2)
    table = predictions(tune())
    hits = [prediction == label for prediction, label in zip(table["prediction"], table["label"], strict=True)]
    assert table["prediction"].count(None) == 3 and len(hits) == 8
    assert result(tune()).metrics["top1"] == np.mean(hits)
    assert "3 of 8 test videos count as wrong" in result(tune()).warnings[0]
    run_finetune(tune(temporal_views=1, missing="exclude"))
    read_ones = [hit for hit, prediction in zip(hits, table["prediction"], strict=True) if prediction is not None]
    assert len(read_ones) == 5 and result(tune()).metrics["top1"] == np.mean(read_ones)
    assert "3 of 8 test videos are left out" in result(tune()).warnings[0]
    rows = pq.read_table(folder(tune()) / "classes.parquet").to_pylist()
    assert [row["missing"] for row in rows] == [2, 1] and [row["test"] for row in rows] == [4, 4]


def test_no_test_video_can_be_read(tune: Tune, workspace: Workspace) -> None:
    relabel(workspace, lambda n, row: {"split": "test" if n == 13 else "train"})
    spoil(workspace, row=13)
    with pytest.raises(UserError, match="none of the 1 test videos could be read"):
        run_finetune(tune())


def test_a_class_without_a_training_video(tune: Tune, workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    relabel(workspace, lambda n, row: {**splits(n, row), **({"label": 2, "label_text": "odd"} if n in (2, 3) else {})})
    experiment = tune()
    run_finetune(experiment)
    assert "1 classes have test videos and no training video: 'odd'" in capfd.readouterr().err
    assert result(experiment).warnings == ["1 classes have test videos and no training video: 'odd'"]
    assert result(experiment).counts["classes_without_training"] == 1
    row = pq.read_table(folder(experiment) / "classes.parquet").to_pylist()[2]
    assert (row["name"], row["train"], row["test"]) == ("odd", 0, 2)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda n, row: {"label": None}, {}, "none of the 14 videos has a label"),
        (lambda n, row: {"split": "train"}, {}, "no labelled video of the split 'test'.*set finetune.train_split"),
        (lambda n, row: {"split": "val"}, {}, "no labelled video of the split 'train'.*'val': 14"),
        (lambda n, row: {}, {"batch_size": 16}, "10 videos to train on, too few.*finetune.batch_size"),
        (lambda n, row: {}, {"batch_size": 3}, "leaves 3 videos to a process.*make it even"),
        (lambda n, row: {}, {"rand_augment": "rand-x1"}, "is not timm's notation"),
        (lambda n, row: {}, {"heads": "verb-noun"}, "index EPIC-Kitchens"),
    ],
)
def test_what_cannot_be_tuned(
    tune: Tune, workspace: Workspace, change: Any, options: dict[str, Any], message: str
) -> None:
    relabel(workspace, change)
    with pytest.raises(UserError, match=message):
        run_finetune(tune(**options))
    assert not folder(tune()).exists()


def test_clips_depend_on_epoch_video_and_repeat_alone(tune: Tune, workspace: Workspace) -> None:
    experiment, videos = tune(), open_videos(workspace)
    dataset = LabelledDataset(videos, experiment)
    first, other = dataset.sample(0, 1), dataset.sample(0, 2)
    assert torch.equal(dataset.sample(0, 1).clip_RTHWC, first.clip_RTHWC)
    assert not torch.equal(first.clip_RTHWC[0], first.clip_RTHWC[1])
    assert not torch.equal(dataset.sample(1, 1).clip_RTHWC, first.clip_RTHWC) and other.key != first.key
    single = LabelledDataset(videos, tune(repeats=1)).sample(0, 1)
    assert torch.equal(single.clip_RTHWC[0], first.clip_RTHWC[0])
    for sampling in ("dense", "segments"):
        short = LabelledDataset(videos, tune(sampling=sampling)).sample(0, 3)  # of 3 frames, for clips of 4
        assert short.clip_RTHWC.shape == (2, 4, 32, 32, 3)


def test_the_command_line(tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(dump(tune()))
    assert main(["finetune", str(config), "--set", "finetune.epochs=1"]) == 0
    assert main(["finetune", str(config), "--set", "finetune.area=[0.5, 0.1]"]) == 2
    assert "is not a range within 0 and 1" in capsys.readouterr().err


def test_results_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the result"):
        read_result(tmp_path / "result.json")
    (tmp_path / "result.json").write_text('{"kind": "finetune", "accuracy": 1}')
    with pytest.raises(UserError, match="is not a result of this version"):
        read_result(tmp_path / "result.json")
