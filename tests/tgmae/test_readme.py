"""The README's commands in its own order, word for word, on a small data set that lies on disk as SSv2 does.

What is replaced: /data/ssv2 by its folder, and big models and long schedules by --set at the end of a command.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from schemas.stage import read_record
from tgmae.cli import app
from tgmae.shipped_files import WORLD_MODELS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = {  # command -> keys
    "index": {},
    "caption": {"caption.blip2.model": str(WORLD_MODELS / "blip2"), "caption.blip2.max_new_tokens": 8},
    "shard": {"shard.short_side": 64},
    "guide": {"text.model": f"local-dir:{WORLD_MODELS / 'clip'}", "text.patch": 8},
    "pretrain": {"clip.frames": 4, "clip.size": 32, "model.size": "tiny", "model.patch": 8, "optim.epochs": 1,
                 "optim.batch_size": 4, "optim.warmup_epochs": 0, "pretrain.workers": 0,
                 "pretrain.precision": "float32"},
    "finetune": {"finetune.epochs": 1, "finetune.batch_size": 4, "finetune.warmup_epochs": 0,
                 "finetune.temporal_views": 1, "finetune.spatial_views": 1},
    "probe": {"probe.batch_size": 8},
    "retrieve": {"retrieve.batch_size": 8},
}  # fmt: skip
SMALL["run"] = {key: value for keys in SMALL.values() for key, value in keys.items()} | {"pretrain.processes": 1}


def commands(heading: str) -> list[list[str]]:
    """The indented lines of a section of the README, without their comments."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [shlex.split(line, comments=True) for line in re.findall(r"^    (tgmae .*)$", section, re.MULTILINE)]


def ssv2(world: Path, root: Path) -> None:
    """The world's videos as Something-Something lies on disk: numbered files, and json lists beside them."""
    labels: dict[str, str] = {}
    lists: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    (root / "labels").mkdir(parents=True)
    for number, path in enumerate(sorted(world.glob("t*/*/*.mp4"))):
        shutil.copy(path, root / f"{number}.mp4")
        name = path.parent.name.replace("_", " ")
        labels.setdefault(name, str(len(labels)))
        split = "train" if path.parent.parent.name == "train" else "validation"
        lists[split].append({"id": str(number), "label": name, "template": name})
    for name, content in {"labels": labels, **lists}.items():
        (root / "labels" / f"{name}.json").write_text(json.dumps(content))


def call(words: list[str], data: Path) -> Result:
    sets = [f"{key}={json.dumps(value)}" for key, value in SMALL.get(words[1], {}).items()]
    sets += ["ray.address=none"] if words[1] in SMALL else []
    given = [word.replace("/data/ssv2", str(data)) for word in words[1:]]
    return CliRunner().invoke(app, [*given, *(word for each in sets for word in ("--set", each))])


def test_the_commands_of_the_readme_run_in_their_order(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    ssv2(world, data)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    example = tmp_path / "configs" / "example.toml"
    example.write_text(example.read_text().replace("/data/ssv2", str(data)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    stages, others = commands("On your own videos")[:9], commands("On your own videos")[9:]
    assert [words[1] for words in stages] == [
        "index", "caption", "shard", "guide", "pretrain", "finetune", "probe", "retrieve", "export",
    ]  # fmt: skip
    for words in stages:
        done = call(words, data)
        assert done.exit_code == 0, (words, done.output)
    run = tmp_path / "work" / "ssv2" / "runs" / "pretrain"
    assert (tmp_path / "out" / "model.safetensors").is_file()
    for step in ("finetune", "probe", "retrieve"):
        result = json.loads((run / step / "result.json").read_bytes())
        assert result["experiment"]["clip"]["stride"] == 2  # what the run was trained with
        assert result["counts"]["test"] == len(list(world.glob("test/*/*.mp4")))
    kept = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*") if path.suffix in (".tar", ".parquet")
    }
    for words in stages[:-1]:  # repeated, none of them touches anything
        again = call(words, data)
        assert again.exit_code == 0 and "current" in again.output, (words, again.output)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    planned = [
        call(words, data) for words in others if words[1:3] in (["run", "configs/example.toml"],) and "--plan" in words
    ]
    assert [each.exit_code for each in planned] == [0], planned[0].output
    status = next(words for words in others if words[1] == "status")
    shown = call(status, data)
    assert shown.exit_code == 0 and shown.output.count("complete") == len(stages) - 1
    assert read_record(run) is not None
