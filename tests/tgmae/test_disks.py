"""A disk that is full, a folder that is read-only, a file in the way: a message and what to do, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.toml import load_experiment
from tests.tgmae.test_run import contents, copied
from tests.tgmae.unwritable import obey_modes
from tgmae.cli import app

PROGRAM = Path(__file__).with_name("unwritable.py")
STAGES = {  # folder that is missing -> the command that builds it
    "manifest": ["index", "{data}", "--out", "{w}"],
    "captions/blip2": ["caption", "{w}"],
    "clips": ["shard", "{w}"],
    "guides/text-blip2": ["guide", "{w}"],
    "runs/text": ["pretrain", "{w}"],
}
REPORTED = {"full": ("File too large", "make room"), "read-only": ("Permission denied", "allow writing")}


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_a_message_in_every_stage(finished: Path, tmp_path: Path) -> None:
    commands, kept = [], {}
    for hazard, (folder, words) in product(REPORTED, STAGES.items()):
        config = copied(finished, tmp_path / str(len(commands)))
        workspace, data = config.parent / "workspace", load_experiment(config).index.data
        shutil.rmtree(workspace / folder)
        arguments = [word.format(w=workspace, data=data) for word in words]
        place = (workspace / folder).parent
        commands.append({"hazard": hazard, "folder": str(place), "arguments": [*arguments, "--config", str(config)]})
        kept[workspace] = {name: contents(workspace / name) for name in STAGES if not name.startswith(folder)}
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "commands.json")],
        check=True, capture_output=True, text=True, timeout=280, preexec_fn=obey_modes,
    )  # fmt: skip
    for command, found in zip(commands, json.loads(done.stdout), strict=True):
        said = found["errors"] + (done.stderr if "pretrain" in command["arguments"] else "")  # the trainer's goes there
        assert found["status"] == 2 and "Traceback" not in said, (command, said[-3000:])
        assert all(words in said for words in REPORTED[command["hazard"]]), (command, said[-3000:])
        assert found["again"] == 0, command
    assert {w: {name: contents(w / name) for name in folders} for w, folders in kept.items()} == kept


@pytest.mark.medium
@pytest.mark.parametrize("command", ["index {data} --out {there}", "index {data} --out {there}/deeper",
                                     "run {config} --set workspace={there}", "demo --out {there}/x"])  # fmt: skip
def test_a_file_in_the_place_of_a_folder_is_a_message(
    world: Path, write_config: object, tmp_path: Path, command: str
) -> None:
    there = tmp_path / "file"
    there.write_text("mine")
    config = write_config(tmp_path / "c.toml", tmp_path / "workspace")  # type: ignore[operator]
    result = CliRunner().invoke(app, command.format(data=world, there=there, config=config).split())
    assert result.exit_code == 2 and "move it, or name another place" in result.output
    assert there.read_text() == "mine"
