"""`tgmae status`: what a workspace holds, what failed, and what no longer fits what it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from schemas.errors import UserError
from schemas.foreign_text import shown
from schemas.stage import PARTS, StageRecord, damage, read_record, replacement_folder
from schemas.tables import FAILURES, SKIPPED, read_table
from schemas.workspace import Workspace


def lines(workspace: Workspace, *, failures: int = 3) -> Iterator[str]:
    """One block a stage: counts, staleness with its reason, the first `failures` failures.

    Raises UserError when the folder is not a workspace.
    """
    folders = list(_folders(workspace))
    if not folders:
        raise UserError(f"{workspace.root} is not a workspace: no stage has written there (tgmae index DATA --out ...)")
    outputs = {name: record.output for name, folder in folders if (record := read_record(folder))}
    for name, folder in folders:
        record = read_record(folder)
        if record is None:
            parts = len(list((folder / PARTS).rglob("[0-9]*.json")))
            yield f"{name:<24} incomplete  {f'{parts} parts are done; ' if parts else ''}the same command resumes"
            continue
        counts = ", ".join(f"{value} {key}" for key, value in record.counts.items())
        harm, stale = "; ".join(damage(folder, record)[:8]), _stale(record, name, outputs)
        state = "damaged" if harm else "stale" if stale else "complete"
        yield f"{name:<24} {state:<11} {counts}; {record.seconds:.0f} s"
        if harm or stale:
            yield f"{'':<24} because {'; '.join(filter(None, (harm, stale)))}"
        if (replacement_folder(folder) / PARTS).is_dir():
            yield f"{'':<24} a rebuild of it was stopped: {replacement_folder(folder)}"
        yield from _failures(folder, failures)


def _folders(workspace: Workspace) -> Iterator[tuple[str, Path]]:
    """(name, folder) of every stage there is, complete or not."""
    fixed = [workspace.manifest, workspace.clips]
    for parent in ("captions", "features", "guides", "runs"):
        fixed += sorted(path for path in (workspace.root / parent).glob("[!.]*") if path.is_dir())
    for folder in fixed:
        if folder.is_dir():
            inner = [folder / stage for stage in ("finetune", "probe", "retrieve") if (folder / stage).is_dir()]
            # A run without a config of its own only judges other weights (model.init).
            own = [folder] if not inner or (folder / "config.toml").is_file() else []
            for path in (*own, *inner):
                yield str(path.relative_to(workspace.root)), path


def _stale(record: StageRecord, name: str, outputs: dict[str, str]) -> str:
    """Why a stage no longer fits its inputs as they are now; empty when it does."""
    reasons = []
    for source, digest in record.inputs.items():
        folder = _input_folder(source, record, name)
        if folder is None:
            continue
        if folder not in outputs:
            reasons.append(f"{folder} is missing or incomplete")
        elif outputs[folder] != digest:
            reasons.append(f"{folder} was rebuilt")
    return "; ".join(reasons)


def _input_folder(source: str, record: StageRecord, name: str) -> str | None:
    """The folder that an input of a record came from, relative to the workspace."""
    if source in ("manifest", "clips") or source.startswith("captions/"):  # captions/...: a part of a mix
        return source
    if source == "captions":
        return f"captions/{record.info.get('captions') or name.partition('-')[2]}"  # guides/text-SET
    if source == "features":
        return f"features/{record.info['features']}"
    if source in ("guide", "text"):
        return f"guides/{record.config[source]}"
    if source == "pretrain":
        return str(Path(name).parent)
    return None  # the files of a dataset: index itself looks at those


def _failures(folder: Path, count: int) -> Iterator[str]:
    path = folder / "failures.parquet"
    if not path.is_file():
        return
    rows = [row for row in read_table(path, FAILURES).to_pylist() if row["error"] not in SKIPPED]
    for row in rows[:count]:
        yield f"{'':<24} failed: {shown(row['video_id'])}: {row['error']}: {shown(row['message'])}"
    if len(rows) > count:
        yield f"{'':<24} ... and {len(rows) - count} more in {path}"
