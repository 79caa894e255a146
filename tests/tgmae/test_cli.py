"""What a person sees who types a command: quick help, and errors that say what to do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from schemas.toml import load_experiment
from tgmae.cli import app
from tgmae.shipped_files import CONFIGS


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def commands() -> list[tuple[str, ...]]:
    """The words of every command."""
    found = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found += [(name, inner) for inner in getattr(command, "commands", {})] or [(name,)]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_has_an_example_that_can_be_typed_and_every_default(words: tuple[str, ...]) -> None:
    text = call(*words, "--help").output
    flat = " ".join(line.strip("│ ") for line in text.splitlines())
    example = re.search(rf"Example: (tgmae {' '.join(words)}\b.*)", " ".join(flat.split()))
    assert example, text
    assert_parses(example.group(1).partition(",")[0].split()[1:])
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    for option in command.params:
        if option.param_type_name == "option" and option.name != "help" and not option.is_flag and not option.required:
            shown = str(option.help)
            said = "config|Repeatable|by default|'10%'|TOML|all of them|in place of"
            assert option.default is not None or re.search(said, shown), (option.opts, shown)


def assert_parses(words: list[str]) -> None:
    """As a command line: its commands, options and the keys that it sets are known. Nothing is run."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context(command.name, list(words))
    sets = context.params.get("set") or []
    load_experiment(None, ["workspace=w", *(sets if isinstance(sets, list | tuple) else [])])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("index", "{tmp}/none", "--out", "{tmp}/w"), "none is not a folder"),
        (("index", "{tmp}", "--out", "{tmp}/w", "--format", "tfrecord"), "Allowed: csv, diving48, epic100,"),
        (("index", "{tmp}", "--out", "{tmp}/w", "--format", "csv"), "needs index.list"),
        (("caption", "{tmp}/w"), "run `tgmae index DATA --out {tmp}/w` first"),
        (("caption", "{tmp}/w", "--source", "gpt"), "unknown caption source 'gpt'. Allowed: blip,"),
        (("shard", "{tmp}/w", "--set", "shard.short=3"), "did you mean 'shard.short_side'"),
        (("guide", "{tmp}/w", "--guide", "none", "--set", "mask.kind=tube"), "no guide to build"),
        (("guide", "{tmp}/w", "--guide", "motion"), "Did you mean 'motion-vectors'?"),
        (("pretrain", "{tmp}/w", "--set", "guide=motion"), "Did you mean 'motion-vectors'?"),
        (("pretrain", "{tmp}/w", "--captions", "orcale"), "Did you mean 'oracle'?"),
        (("pretrain", "{tmp}/w", "--set", "mask.kind=topk"), "Did you mean 'top-k'?"),
        (("pretrain", "{tmp}/w", "--set", "model.size=bas"), "Did you mean 'base'?"),
        (("pretrain", "{tmp}/w", "--set", 'stages=["pretrian"]'), "Did you mean 'pretrain'?"),
        (("pretrain", "{tmp}/w", "--set", "mask=3"), "mask is a section, not a value: set its keys (mask.kind,"),
        (("index", "{tmp}", "--out", "{tmp}/w", "--format", "kinetic"), "Did you mean 'kinetics'?"),
        (("run", str(CONFIGS / "exmaple.toml")), f"Did you mean '{CONFIGS / 'example.toml'}'?"),
        (("pretran",), "Did you mean 'pretrain'?"),
        (("captions", "stast", "{tmp}"), "Did you mean 'stats'?"),
        (("pretrain", "{tmp}/w", "--nmae", "x"), "--name"),
        (("pretrain", "{tmp}/w"), "run `tgmae shard {tmp}/w` first"),
        (("finetune", "{tmp}/w"), "run `tgmae shard {tmp}/w` first"),
        (("probe", "{tmp}/w", "--name", "../x"), "run name '../x' is not usable"),
        (("run", "{tmp}/none.toml"), "cannot read the config"),
        (("status", "{tmp}"), "is not a workspace"),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    result = call(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2
    assert said.format(tmp=tmp_path) in result.output
    assert "Traceback" not in result.output


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = call("index", tmp_path / "empty", "--out", tmp_path / "w")
    assert result.exit_code == 2 and "no video" in result.output


def test_help_names_every_command() -> None:
    text = call("--help").output
    names = (
        "index caption captions shard guide pretrain finetune probe retrieve run status sweep table export world demo"
    )
    assert all(name in text for name in names.split())


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """None in sys.modules makes an import fail as if the package were not installed."""
    program = "import sys; sys.modules['av'] = None; from tgmae.cli import main; main()"
    (tmp_path / "a.mp4").write_text("not a video")
    command = [sys.executable, "-c", program, "index", str(tmp_path), "--out", str(tmp_path / "w")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and "pip install 'tgmae[pipeline]'" in result.stderr
    assert "Traceback" not in result.stderr
