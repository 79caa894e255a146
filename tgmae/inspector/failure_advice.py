"""What to do about a failure: a command that tries it again."""

from __future__ import annotations

import shlex
from pathlib import Path

from schemas.errors import UserError
from schemas.log import last_command
from schemas.stage import StageRecord, read_record
from schemas.toml import load_experiment
from schemas.workspace import Workspace


def data_root(workspace: Workspace) -> Path | None:
    """The folder that the videos were indexed from."""
    try:
        record = read_record(workspace.manifest)
    except UserError:
        return None
    found = record.info.get("data") if record is not None else None
    return Path(found) if isinstance(found, str) else None


def retry_command(workspace: Workspace, folder: str) -> str:
    """The command line that tries the failures of that stage's folder again; every name in it is quoted.

    It is the command that made the stage, by its log, else one that is put together from the folder's name.
    """
    root, data = str(workspace.root), data_root(workspace)
    kind, _, name = folder.partition("/")
    made = {
        "manifest": ["index", str(data or "DATA"), "--out", root, *_format(workspace)],
        "clips": ["shard", root],
        "captions": ["caption", root, "--source", name],
        "features": ["features", root],
        "guides": ["guide", root, *_guide_options(name)],
    }.get(kind, ["status", root])
    kept = workspace.root / folder
    logged = last_command(kept)
    configs = sorted((workspace.root / "experiments").glob("*.toml"), key=lambda path: -path.stat().st_mtime)
    if logged and logged[0] in (made[0], "run", "demo"):
        made = logged
    elif kind != "manifest" and configs and _builds(configs[0], folder):
        made = ["run", str(configs[0])]
    if kind == "manifest":  # the index looks at names, sizes and times: a file that was replaced makes it stale
        again = ["--rebuild"] if made[0] == "index" and "--rebuild" not in made else []
        return shlex.join(["tgmae", *made, *again])
    # A finished stage is current, with its failures: it is made again where it is out of the way. Hidden, so that no
    # command takes it for a stage; `tgmae runs` lists it.
    return f"mv {shlex.quote(str(kept))} {shlex.quote(str(aside(kept)))} && {shlex.join(['tgmae', *made])}"


def _format(workspace: Workspace) -> list[str]:
    record = _record(workspace.manifest)
    form = record.config.get("format") if record is not None else None
    return ["--format", str(form)] if form else []


def aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.before")


def _builds(config: Path, folder: str) -> bool:
    """Whether an experiment makes that stage's folder."""
    try:
        experiment = load_experiment(config)
    except UserError:
        return False
    kind, _, name = folder.partition("/")
    return kind == "clips" or name in (experiment.captions, experiment.guide_name)


def _record(folder: Path) -> StageRecord | None:
    try:
        return read_record(folder)
    except UserError:
        return None


def _guide_options(name: str) -> list[str]:
    for guide in ("text", "embeddings"):
        if name.startswith(f"{guide}-"):
            return ["--guide", guide, "--captions", name.removeprefix(f"{guide}-")]
    return ["--guide", name]
