"""Names of models that lead nowhere are one sentence within seconds: no hub, none at all, one that refuses or hangs."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.runtime import model_check
from pipeline.runtime.model_check import check_captioner, check_guide, check_hub, hub_options
from schemas.config import Blip2, Caption, Experiment, Flow, Llm, Text
from schemas.errors import UserError
from tgmae.run import run

NAME = "someone/captioner"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No network, an empty cache; nothing may take long."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    point_to(monkeypatch, 9)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    began = time.perf_counter()
    yield tmp_path / "hub"
    assert time.perf_counter() - began < 30


def point_to(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def keep(cache: Path, revision: str = "main", commit: str = "c0ffee") -> Path:
    """As the hub's library keeps a model."""
    folder = cache / "models--someone--captioner"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    return folder / "snapshots" / commit


def test_a_hub_that_cannot_be_reached(cache: Path) -> None:
    caption = Caption(blip2=Blip2(model=NAME))
    with pytest.raises(UserError) as raised:
        check_captioner("blip2", caption)
    said = str(raised.value)
    for part in ("caption.blip2.model = 'someone/captioner'", str(cache), "cannot be reached", "HF_HUB_OFFLINE=1",
                 "--set caption.blip2.model=FOLDER"):  # fmt: skip
        assert part in said
    assert "\n" not in said and len(said) < 700
    check_captioner("blip2", Caption(blip2=Blip2(model=str(cache.parent))))  # a folder
    check_captioner("oracle", caption)
    check_captioner("llm", Caption(llm=Llm(local=NAME, file="made.json")))
    with pytest.raises(UserError, match=r"caption.llm.local = .*cannot be reached"):
        check_captioner("llm", Caption(llm=Llm(local=NAME)))


def test_what_is_in_the_cache_is_not_asked_for(cache: Path) -> None:
    snapshot = keep(cache)
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be reached"):  # weights are missing: a download that was stopped
        check_hub("key", NAME)
    (snapshot / "model.safetensors").write_bytes(b"")
    check_hub("key", NAME)
    check_hub("key", NAME, "c0ffee")
    assert hub_options(NAME, "main")["local_files_only"] and not hub_options(NAME, "other")["local_files_only"]
    assert hub_options(str(cache), "main") == {}
    with pytest.raises(UserError, match="cannot be reached"):
        check_hub("key", NAME, "other")


def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        check_hub("key", NAME)


@pytest.mark.parametrize(
    ("code", "message"),
    [("RepoNotFound", "does not give it.*Is the name right"), ("EntryNotFound", ""), ("GatedRepo", "open to you")],
)
def test_what_the_hub_says(monkeypatch: pytest.MonkeyPatch, code: str, message: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403 if code == "GatedRepo" else 404)
            self.send_header("X-Error-Code", code)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    point_to(monkeypatch, server.server_port)
    try:
        if message:
            with pytest.raises(UserError, match=message):
                check_hub("key", NAME)
        else:
            check_hub("key", NAME)
    finally:
        server.shutdown()
        server.server_close()


def test_a_hub_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_check, "LIMIT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        point_to(monkeypatch, server.getsockname()[1])
        with pytest.raises(UserError, match=r"cannot be reached \(TimeoutError: no answer for 0.3 s\)"):
            check_hub("key", NAME)


@pytest.mark.parametrize("name", ["./captioner", "a/b/c", "captioner/"])
def test_a_path_that_leads_nowhere(name: str) -> None:
    with pytest.raises(UserError, match="neither a folder nor in the cache"):
        check_hub("key", name)


def test_open_clip_s_names() -> None:
    def text(**options: str) -> Experiment:
        return Experiment(workspace="w", text=Text(**options))  # type: ignore[arg-type]

    with pytest.raises(UserError, match=r"text.pretrained = 'timm/.*cannot be reached.*text.pretrained=FILE"):
        check_guide(text())
    with pytest.raises(UserError, match=r"unknown text.pretrained of ViT-B-32.*Did you mean 'openai'"):
        check_guide(text(pretrained="openia"))
    with pytest.raises(UserError, match=r"unknown text.model.*Did you mean 'ViT-B-32-quickgelu'"):
        check_guide(text(model="ViT-B-32-quickgel"))
    with pytest.raises(UserError, match=r"text.model = 'someone/captioner'.*cannot be reached"):
        check_guide(text(model=f"hf-hub:{NAME}"))
    with pytest.raises(UserError, match="no such folder"):
        check_guide(text(model="local-dir:missing"))


def test_raft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    raft = Experiment(workspace="w", guide="optical-flow", flow=Flow(engine="raft"), mask={"kind": "tube"})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"raft_small_C_T_V2.*cannot be reached.*flow.engine=dis"):
        check_guide(raft)
    check_guide(raft.model_copy(update={"flow": Flow(engine="dis")}))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "raft_small_C_T_V2-01064c6d.pth").write_bytes(b"")
    check_guide(raft)


def test_a_run_looks_before_its_first_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "data").mkdir()
    experiment = Experiment(workspace=str(tmp_path / "w"), caption=Caption(blip2=Blip2(model=NAME)))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        run(
            experiment.model_copy(
                update={"index": experiment.index.model_copy(update={"data": str(tmp_path / "data")})}
            )
        )
    assert not (tmp_path / "w").exists()
