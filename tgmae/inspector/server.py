"""Serves the inspector's site until it is interrupted."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn

from schemas.errors import UserError
from schemas.workspace import Workspace
from tgmae.inspector.drawn_clips import Clips
from tgmae.inspector.index_keeper import Keeper
from tgmae.inspector.known_objects import truth_folder
from tgmae.inspector.site import application
from tgmae.inspector.site_answers import Site
from tgmae.inspector.site_guard import Guard

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ALL = ("0.0.0.0", "::")
INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended


def serve(root: Path, *, host: str, port: int, browser: bool, truth: Path | None, say: Callable[[str], None]) -> None:
    """Prints the one URL to open. Errors: UserError for a folder that is no workspace, or an address not there."""
    if not root.is_dir():
        raise UserError(f"{root} is not a workspace: there is no such folder")
    workspace = Workspace(root)
    if not (workspace.manifest / "manifest.parquet").is_file():
        raise UserError(f"{root} is not a workspace: it has no manifest (tgmae index DATA --out {root})")
    truth_folder(workspace, truth)  # what is wrong with it is said before anything is served
    clips = Clips(workspace)
    keeper = Keeper(workspace, clips, truth=truth, say=say)
    listening = _bound(host, port)
    found = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    hosts = LOOPBACK if host in LOOPBACK else None if host in ALL else (host,)
    site = Guard(application(Site(workspace, clips, keeper)), token=token, hosts=hosts, port=found)
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{name}:{found}/?token={token}"
    keeper.start()
    say(f"inspector of {root}: {url}")
    say("Ctrl+C ends it. Nothing in the workspace is changed." + (
        "" if host in LOOPBACK else " Others can reach this page: who has the URL sees the videos."))  # fmt: skip
    if browser and (sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(url)
    config = uvicorn.Config(site, log_level="warning", access_log=False, server_header=False, lifespan="off")
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()
        if not keeper.stop():  # in the middle of something long; it is made again at the next start
            sys.stdout.flush()
            os._exit(INTERRUPTED)


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket: at the port, or where that is taken at any other."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in dict.fromkeys((port, 0)):
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, wanted))
            listening.listen(128)  # who opens the URL at once waits, and is not refused
            return listening
        except OSError as error:
            listening.close()
            reason = error.strerror or str(error)
    raise UserError(f"cannot serve on {host}: {reason}")
