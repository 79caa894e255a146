"""Caption sets that need no frames, through the stage itself: records, failures, notes, mixes. Nothing starts Ray."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.caption import run_caption
from pipeline.stage_specs import caption_spec
from schemas.config import Caption, CaptionFile, Clean, Experiment, Llm, Mix
from schemas.errors import UserError
from schemas.stage import StageRecord, read_record, write_record
from schemas.tables import CAPTIONS, CHANGES, FAILURES, MANIFEST, read_table, write_table
from schemas.workspace import Workspace
from tests.pipeline.test_caption import row
from tgmae.status import _failures

LABELS = {"a.mp4": "running", "b.mp4": "running", "c.mp4": "Holding [something]", "d.mp4": None}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "ray", None)
    root = tmp_path / "w"
    make_manifest(root, "first")
    return root


def make_manifest(root: Path, output: str) -> None:
    rows = [row(name, label_text=label) for name, label in LABELS.items()]
    rows[2]["text"] = "holding a cup"
    write_table(Workspace(root).manifest / "manifest.parquet", rows, MANIFEST)
    record = StageRecord(
        stage="index", fingerprint="f", config={}, inputs={}, output=output, counts={}, failed={}, tools={},
        info={"data": str(root)}, seconds=0,
    )  # fmt: skip
    write_record(Workspace(root).manifest, record)


def experiment(root: Path, captions: str, **caption: Any) -> Experiment:
    options = {"videos_per_shard": 3, **caption}
    return Experiment(workspace=str(root), captions=captions, max_failures="90%", caption=Caption(**options))


def texts(root: Path, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    rows = read_table(Workspace(root).captions(name) / "captions.parquet", CAPTIONS).to_pylist()
    for each in rows:
        found.setdefault(each["video_id"], []).append(each["text"])
        assert each["caption"] == len(found[each["video_id"]]) - 1
    return found


def reasons(root: Path, name: str) -> dict[str, str]:
    rows = read_table(Workspace(root).captions(name) / "failures.parquet", FAILURES).to_pylist()
    return {each["video_id"]: each["message"] for each in rows}


def make_llm(root: Path, **options: Any) -> Experiment:
    path = root.parent / "made.json"
    path.write_text(json.dumps({"running": ["Legs move fast.", "A runner."], "holding something": ["A hand."]}))
    made = experiment(root, "llm", llm=Llm(file=str(path), **options))
    run_caption(made)
    return made


def test_oracle_and_llm_sets(workspace: Path) -> None:
    record = run_caption(experiment(workspace, "oracle"))
    assert texts(workspace, "oracle") == {"a.mp4": ["running"], "b.mp4": ["running"], "c.mp4": ["holding a cup"]}
    assert (
        record.counts == {"done": 3, "failed": 0, "skipped": 1, "shards": 2}
        and "no label text" in reasons(workspace, "oracle")["d.mp4"]
    )
    make_llm(workspace)
    assert texts(workspace, "llm")["a.mp4"] == ["Legs move fast.", "A runner."]
    assert texts(workspace, "llm")["c.mp4"] == ["A hand."]


def test_videos_without_a_label_are_no_failures(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """183 of 665 stopped the set, though a list may have labels for a part of its videos only."""
    labels = ["running", None, "walking", *[None] * 37]
    rows = [row(f"{number}.mp4", label_text=label) for number, label in enumerate(labels)]
    write_table(Workspace(workspace).manifest / "manifest.parquet", rows, MANIFEST)
    strict = experiment(workspace, "oracle").model_copy(update={"max_failures": "0"})
    record = run_caption(strict)
    assert record.counts["done"] == 2 and record.counts["failed"] == 0 and record.counts["skipped"] == 38
    assert not record.failed and "38 videos are left out, for they have no label" in capsys.readouterr().err
    assert not list(_failures(Workspace(workspace).captions("oracle"), 9))
    (workspace.parent / "made.json").write_text('{"running": ["A runner."], "walking": ["A walker."]}')
    llm = strict.caption.model_copy(update={"llm": Llm(file=str(workspace.parent / "made.json"))})
    run_caption(strict.model_copy(update={"captions": "llm", "caption": llm}))
    mixed = run_caption(strict.model_copy(update={"captions": "oracle+llm"}))
    assert mixed.counts["failed"] == 0 and mixed.counts["skipped"] == 38


def test_a_set_of_labels_that_are_said_in_words_is_another_one(workspace: Path) -> None:
    """Sets of other labels stay what tgmae 0.1 made."""
    classes = Workspace(workspace).manifest / "classes.json"
    plain = caption_spec(experiment(workspace, "oracle"))
    classes.write_text('{"classes": ["running", "Holding [something]"]}')
    assert caption_spec(experiment(workspace, "oracle")) == plain
    classes.write_text('{"classes": ["running", "ApplyLipstick"]}')
    assert caption_spec(experiment(workspace, "oracle")).config == {**plain.config, "labels": "in words"}
    assert "labels" not in caption_spec(experiment(workspace, "blip2")).config


def test_the_descriptions_that_were_asked_for_can_be_used_again(workspace: Path) -> None:
    """By way of the answers kept in the workspace: no server is needed for what was asked before."""
    from pipeline.captioners.label_words import spoken
    from pipeline.captioners.llm_answers import Cache, Question, Reply

    options = Llm(samples=1, model="m", key_variable="NO_KEY", url_variable="TGMAE_TEST_URL")
    cache = Cache(workspace / "cache" / "llm", {"model": "m"}, options)
    for label in filter(None, set(LABELS.values())):
        for number, prompt in enumerate(options.prompts):
            text = "I'm sorry." if number == 0 else f"{number}. {label} it is."
            cache.write(Question(label, prompt.replace("{}", spoken(label)), 0), Reply(text, 1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TGMAE_TEST_URL", "http://127.0.0.1:9")
        run_caption(experiment(workspace, "llm", llm=options))
    folder = Workspace(workspace).captions("llm")
    assert texts(workspace, "llm")["a.mp4"] == ["running it is."]
    described = json.loads((folder / "descriptions.json").read_text())
    assert described["running"] == ["running it is."]
    assert {each["fault"] for each in json.loads((folder / "rejected.json").read_text())} == {"a refusal"}
    again = experiment(workspace, "llm.again", llm=Llm(file=str(folder / "descriptions.json")))
    run_caption(again)
    assert texts(workspace, "llm.again") == texts(workspace, "llm")  # next to the other, not in its place


def test_a_file_set_depends_on_the_file(workspace: Path) -> None:
    path = workspace.parent / "mine.csv"
    path.write_text("video_id,text\na,one\nb,two\n")
    mine = experiment(workspace, "file", file=CaptionFile(path=str(path)))
    run_caption(mine)
    assert texts(workspace, "file") == {"a.mp4": ["one"], "b.mp4": ["two"]}
    assert "mine.csv has no caption" in reasons(workspace, "file")["c.mp4"]
    made = read_record(Workspace(workspace).captions("file"))
    assert made is not None and caption_spec(mine).fingerprint == made.fingerprint
    path.write_text("video_id,text\na,one\nb,three\n")
    assert caption_spec(mine).fingerprint != made.fingerprint
    with pytest.raises(UserError, match=r"caption.file.path is not set"):
        caption_spec(experiment(workspace, "file"))


def test_a_mix_is_the_union_of_its_parts(workspace: Path) -> None:
    mix = experiment(workspace, "oracle+llm")
    with pytest.raises(UserError, match=r"run `tgmae caption .*/w --source oracle` first"):
        run_caption(mix)
    run_caption(experiment(workspace, "oracle"))
    make_llm(workspace)
    record = run_caption(mix)
    parts = texts(workspace, "oracle"), texts(workspace, "llm")
    assert texts(workspace, "oracle+llm") == {name: [*parts[0][name], *parts[1][name]] for name in parts[0]}
    message = reasons(workspace, "oracle+llm")["d.mp4"]
    assert "oracle: no caption" in message and "llm: no caption" in message
    assert set(record.inputs) == {"manifest", "captions/oracle", "captions/llm"}
    weighted = experiment(workspace, "oracle+llm", mix=Mix(weights=(2, 1)))
    assert caption_spec(weighted).fingerprint != record.fingerprint
    run_caption(weighted)
    assert texts(workspace, "oracle+llm")["c.mp4"] == ["holding a cup", "holding a cup", "A hand."]


def test_a_mix_follows_its_parts(workspace: Path) -> None:
    mix = experiment(workspace, "oracle+llm")
    run_caption(experiment(workspace, "oracle"))
    make_llm(workspace)
    before = run_caption(mix)
    make_llm(workspace, per_video=1)
    assert caption_spec(mix).differences(before) == ["captions/llm changed"]
    make_manifest(workspace, "second")
    with pytest.raises(UserError, match="was made from another manifest: run `tgmae caption"):
        caption_spec(mix)


@pytest.mark.parametrize(
    ("captions", "weights", "said"),
    [("oracle+oracle", (), "'oracle' twice"), ("oracle+llm", (1, 2, 3), "3 numbers, the mix oracle.llm has 2 parts")],
)
def test_mixes_that_make_no_sense(workspace: Path, captions: str, weights: tuple[int, ...], said: str) -> None:
    run_caption(experiment(workspace, "oracle"))
    make_llm(workspace)
    with pytest.raises(UserError, match=said):
        run_caption(experiment(workspace, captions, mix=Mix(weights=weights)))


def test_cleaning_leaves_a_table_of_changes(workspace: Path) -> None:
    path = workspace.parent / "mine.csv"
    path.write_text("video_id,text\na,arafed cat\nb,arafed\nc,dog\n")
    file = CaptionFile(path=str(path))
    plain = run_caption(experiment(workspace, "file", file=file))
    assert not (Workspace(workspace).captions("file") / "changes.parquet").exists()
    record = run_caption(experiment(workspace, "file", file=file, clean=Clean(enabled=True)))
    assert record.fingerprint != plain.fingerprint
    rows = read_table(Workspace(workspace).captions("file") / "changes.parquet", CHANGES).to_pylist()
    assert {(each["video_id"], each["before"], each["after"], each["caption"]) for each in rows} == {
        ("a.mp4", "arafed cat", "cat", 0),
        ("b.mp4", "arafed", "", None),
    }
    assert texts(workspace, "file") == {"a.mp4": ["cat"], "c.mp4": ["dog"]}


def test_the_same_set_again_is_the_same_to_the_byte(workspace: Path) -> None:
    made = make_llm(workspace, per_video=1)
    folder = Workspace(workspace).captions("llm")
    before = (folder / "captions.parquet").read_bytes()
    shutil.rmtree(folder)
    run_caption(made)
    assert (folder / "captions.parquet").read_bytes() == before


@pytest.mark.parametrize("name", ["gpt", "blip2+gpt", "blip2+", "BLIP2"])
def test_unknown_sets_are_answered_with_the_known(name: str) -> None:
    with pytest.raises(ValueError, match="Allowed: blip, blip2, file, (lavis, )?llm, oracle"):
        Experiment(workspace="w", captions=name)


def test_a_set_may_have_a_name_of_its_own(workspace: Path) -> None:
    folders = [caption_spec(experiment(workspace, name)).folder.name for name in ("oracle", "oracle.short")]
    assert folders == ["oracle", "oracle.short"]


def test_half_a_surrogate_pair_costs_its_own_video(workspace: Path, tmp_path: Path) -> None:
    """JSON can say it, no table can hold it."""
    path = tmp_path / "captions.jsonl"
    lines = [{"video_id": "a.mp4", "text": "a \ud83d"}, {"video_id": "b.mp4", "text": "a cup"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "[" * 200_000 + "\n")
    run_caption(experiment(workspace, "file", file=CaptionFile(path=str(path))))
    assert texts(workspace, "file") == {"b.mp4": ["a cup"]}
    assert reasons(workspace, "file")["a.mp4"] == r"a caption is not UTF-8: a \ud83d"
