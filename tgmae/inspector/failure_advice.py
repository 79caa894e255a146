"""What to do about a failure: a command that tries it again."""

from __future__ import annotations

import shlex
from pathlib import Path

from schemas.errors import UserError
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


def retry_command(workspace: Workspace, folder: str, video_id: str) -> str:
    """The command line that tries a failure of that stage's folder again; every name in it is quoted."""
    root, data = shlex.quote(str(workspace.root)), data_root(workspace)
    kind, _, name = folder.partition("/")
    if kind == "manifest":
        # The index looks at names, sizes and times: a file that was replaced, or touched, makes it stale.
        path = "" if data is None else str(data / video_id.partition("#")[0])
        record = _record(workspace.manifest)
        form = record.config.get("format") if record is not None else None
        options = f" --format {shlex.quote(str(form))}" if form else ""
        index = f"tgmae index {shlex.quote(str(data or 'DATA'))} --out {root}{options} --rebuild"
        return f"touch {shlex.quote(path)} && {index}" if path else index
    made = {
        "clips": f"tgmae shard {root}",
        "captions": f"tgmae caption {root} --source {shlex.quote(name)}",
        "features": f"tgmae features {root}",
        "guides": f"tgmae guide {root}{_guide_options(name)}",
    }.get(kind, f"tgmae status {root}")
    # A finished stage is current, with its failures: it is made again where it is out of the way. Hidden, so that no
    # command takes it for a stage; with the config that it was made with, where a run has kept that.
    kept = workspace.root / folder
    before = shlex.quote(str(kept.with_name(f".{kept.name}.before")))
    configs = sorted((workspace.root / "experiments").glob("*.toml"), key=lambda path: -path.stat().st_mtime)
    again = f"tgmae run {shlex.quote(str(configs[0]))}" if configs and _builds(configs[0], folder) else made
    return f"mv {shlex.quote(str(kept))} {before} && {again}"


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


def _guide_options(name: str) -> str:
    for guide in ("text", "embeddings"):
        if name.startswith(f"{guide}-"):
            return f" --guide {guide} --captions {shlex.quote(name.removeprefix(f'{guide}-'))}"
    return f" --guide {shlex.quote(name)}"
