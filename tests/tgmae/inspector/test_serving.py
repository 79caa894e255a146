"""`tgmae inspect` as a command: what it prints, and what it says where something is missing."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.log import FILE
from schemas.workspace import Workspace
from tgmae.cli import app
from tgmae.inspector.catalogue import cache_file
from tgmae.inspector.failure_advice import retry_command


def test_without_its_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    told = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert told.exit_code == 2 and "pip install 'tgmae[train,inspect]'" in told.output


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_that_is_no_workspace_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    told = CliRunner().invoke(app, ["inspect", str(tmp_path / name), "--no-browser"])
    assert told.exit_code == 2 and "is not a workspace" in told.output


def test_truth_that_is_no_folder_is_refused(looked_at: Workspace, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["inspect", str(looked_at.root), "--no-browser", "--truth", str(tmp_path / "no")])
    assert told.exit_code == 2 and "is not a folder of truth" in told.output


@pytest.mark.slow
def test_the_printed_url_opens_the_page_and_the_token_is_new_each_time(
    looked_at: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokens = set()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for _ in range(2):
            command = [sys.executable, "-m", "tgmae", "inspect", str(looked_at.root), "--no-browser", "--port",
                       str(taken.getsockname()[1])]  # fmt: skip
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            url = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", process.stdout.readline())
            assert url is not None and url[1] != str(taken.getsockname()[1])  # taken: another one
            tokens.add(url[2])
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            opener.addheaders = []
            try:
                page = opener.open(url[0], timeout=60).read().decode()
            except urllib.error.HTTPError as error:  # the index is made first
                page = error.read().decode()
            assert "<title>" in page
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"http://127.0.0.1:{url[1]}/")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in (0, 130, -signal.SIGINT)
            process.stdout.close()
    assert len(tokens) == 2
    assert cache_file(looked_at.root).is_relative_to(tmp_path)


def test_a_failures_command_is_the_one_that_made_the_stage(looked_at: Workspace, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    shutil.copytree(looked_at.root, workspace.root)
    log = workspace.manifest / FILE
    log.write_text("2026-11-26 19:00:00 began: /venv/bin/tgmae index 'my data' --out w --format csv --list 'a b.csv'\n")
    assert retry_command(workspace, "manifest") == (
        "tgmae index 'my data' --out w --format csv --list 'a b.csv' --rebuild"
    )
    for hostile in ("began: rm -rf /", "began: tgmae demo; rm -rf ~", "began: tgmae 'unclosed"):
        log.write_text(f"2026-11-26 19:00:00 {hostile}\n")
        command = retry_command(workspace, "manifest")
        assert "rm" not in shlex.split(command)[:1] and not re.search(r"(?<!');", command), command


def test_without_a_log_it_is_put_together_and_quoted(looked_at: Workspace) -> None:
    name = "text-a'; rm -rf ~; '"
    words = shlex.split(retry_command(looked_at, f"guides/{name}"))
    assert words[0] == "mv" and words[1] == str(looked_at.root / "guides" / name)
    assert words[-2:] == ["--captions", name.removeprefix("text-")] or words[4:6] == ["tgmae", "run"]
    assert f"mv {looked_at.root}/clips {looked_at.root}/.clips.before && " in retry_command(looked_at, "clips")
