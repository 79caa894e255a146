"""The runs of a workspace, those that were set aside, and what was left behind by what was stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.errors import UserError, choice_error
from schemas.lock import writer
from schemas.stage import StageRecord, StageSpec, damage, read_record
from schemas.workspace import Workspace
from train.engine import checkpoint_files
from train.engine.run_folder import KEPT

INNER = ("finetune", "probe", "retrieve")  # stages inside a run's folder
Kind = Literal["run", "kept", "leftover"]
LEFT = {
    ".building": "the rebuild of {} that was stopped: the same command resumes it",
    ".replaced": "what {} was before its rebuild: removed by the next command",
    ".removed": "a removal of {} that was stopped",
    ".before": "what {} was before its failures were tried again",
}


@dataclass(frozen=True)
class Item:
    name: str  # as the commands take it: under runs/, a leftover under the workspace
    folder: Path
    kind: Kind

    @property
    def place(self) -> Path:
        """Where it belongs: of a kept run the run's own place, of a leftover the stage's."""
        if self.kind == "kept":
            return self.folder.with_name(KEPT.sub("", self.folder.name))
        if self.kind == "leftover":
            return self.folder.with_name(self.folder.name[1:].rpartition(".")[0] or self.folder.name)
        return self.folder

    @property
    def record(self) -> StageRecord | None:
        """Of what it holds, finished or begun; None where it cannot be told."""
        try:
            record = read_record(self.folder)
            if record is not None:
                return record
            found = checkpoint_files.newest_state(self.folder)
            return StageRecord.begun(found["spec"]) if found else None
        except (UserError, KeyError, TypeError, ValueError):
            return None


def inventory(workspace: Workspace) -> list[Item]:
    """Each run, then those of its name that were set aside, then those inside it; at last what was left behind."""
    runs = workspace.root / "runs"
    folders = sorted(path for path in runs.glob("[!.]*") if path.is_dir())
    items = []
    for path in sorted(folders, key=lambda path: (KEPT.sub("", path.name), path.name)):
        items.append(Item(path.name, path, "kept" if KEPT.search(path.name) else "run"))
        items += [
            Item(f"{path.name}/{inner.name}", inner, "kept")
            for stage in INNER
            for inner in sorted(path.glob(f"{stage}.*"))
            if inner.is_dir() and KEPT.fullmatch(inner.name.removeprefix(stage))
        ]
    return items + list(_leftovers(workspace.root))


def _leftovers(root: Path) -> Iterator[Item]:
    found = {path for ending in LEFT for pattern in (f".*{ending}", f"*/.*{ending}", f"runs/*/.*{ending}")
             for path in root.glob(pattern) if path.is_dir()}  # fmt: skip
    ray = root / "runs" / ".ray"
    for path in sorted(found | ({ray} if ray.is_dir() else set())):
        yield Item(str(path.relative_to(root)), path, "leftover")


def find(items: list[Item], name: str) -> Item:
    """The item of that name; runs/NAME is NAME. Raises UserError that names the nearest."""
    wanted = name.rstrip("/").removeprefix("runs/")
    for item in items:
        if wanted == item.name.removeprefix("runs/"):
            return item
    if not items:
        raise UserError(f"there is no run {name!r}: the workspace has none")
    raise choice_error("run", name, [item.name for item in items])


def lines(workspace: Workspace) -> Iterator[str]:
    """A line an item: name, state, size, last change, what it holds; below, in what a kept one differs.

    Raises UserError when the folder is not a workspace.
    """
    items = inventory(workspace)
    if not items:
        if not workspace.root.is_dir():
            raise UserError(f"{workspace.root} is not a folder: name a workspace")
        yield f"no runs in {workspace.root} (tgmae pretrain {workspace.root})"
        return
    wide = max(len(item.name) for item in items)
    for item in items:
        size, changed = _size_and_change(item.folder)
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(changed))
        yield f"{item.name:<{wide}}  {_state(item):<10}  {_bytes(size):>8}  {date}  {_about(item)}".rstrip()
        if item.kind == "kept" and (reasons := differences(item)):
            yield f"{'':<{wide}}  differs from {item.place.name}: {'; '.join(reasons)}"


def differences(item: Item) -> list[str]:
    """In what a kept run differs from the one in its place: its value, then that one's. Empty where there is none."""
    other = Item(item.place.name, item.place, "run").record
    record = item.record
    if other is None or record is None:
        return []
    return StageSpec("", item.place, other.config, other.inputs).differences(record)


def _state(item: Item) -> str:
    if item.kind == "leftover":
        return "leftover"
    if any(writer(folder) for folder in (item.folder, *(item.folder / stage for stage in INNER))):
        return "running"
    try:
        record = read_record(item.folder)
    except UserError:
        return "damaged"
    if record is None:
        evaluated = any((item.folder / stage).is_dir() for stage in INNER)
        begun = (item.folder / checkpoint_files.FOLDER).is_dir() or (item.folder / "config.toml").is_file()
        return "evaluated" if evaluated and not begun else "incomplete"
    return "damaged" if damage(item.folder, record) else "complete"


def _about(item: Item) -> str:
    if item.kind == "leftover":
        ending = next((ending for ending in LEFT if item.name.endswith(ending)), "")
        return LEFT[ending].format(item.place.name) if ending else "what Ray Train wrote beside the runs"
    found = checkpoint_files.newest_state(item.folder)
    record = item.record
    facts = []
    if record is not None and "optim" in record.config:
        facts.append(f"{record.config['optim'].get('epochs')} epochs")
    if found is not None and _state(item) == "incomplete":
        facts.append(f"stopped at update {found['position']['step']}")
    facts += [stage for stage in INNER if (item.folder / stage).is_dir()]
    return ", ".join(facts)


def _size_and_change(folder: Path) -> tuple[int, float]:
    """Bytes of the files under a folder, hard links once, and when the last was written."""
    sizes, changed = {}, 0.0
    for path, _, names in os.walk(folder):
        for name in (".", *names):
            try:
                stat = os.lstat(os.path.join(path, name))
            except OSError:  # it is being written
                continue
            changed = max(changed, stat.st_mtime)
            if name != ".":
                sizes[stat.st_ino] = stat.st_size
    return sum(sizes.values()), changed


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1000
    return f"{size:.3g} TB"
