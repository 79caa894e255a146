"""What a person sees who types a command: quick help, and errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tgmae.cli import app


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("index", "{tmp}/none", "--out", "{tmp}/w"), "none is not a folder"),
        (("index", "{tmp}", "--out", "{tmp}/w", "--format", "tfrecord"), "'folder', 'csv', 'files', 'ssv2'"),
        (("index", "{tmp}", "--out", "{tmp}/w", "--format", "csv"), "needs index.list"),
        (("caption", "{tmp}/w"), "run `tgmae index DATA --out {tmp}/w` first"),
        (("caption", "{tmp}/w", "--source", "gpt"), "unknown caption source 'gpt'. Allowed: blip,"),
        (("shard", "{tmp}/w", "--set", "shard.short=3"), "did you mean 'shard.short_side'"),
        (("guide", "{tmp}/w", "--guide", "none", "--set", "mask.kind=tube"), "no guide to build"),
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
