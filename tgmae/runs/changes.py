"""Renaming, restoring and removing runs. What is being written is refused; nothing outside the workspace is touched."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from schemas.atomic import sha256_file, write_bytes
from schemas.errors import UserError
from schemas.lock import only_writer
from schemas.stage import StoredFile, read_record, write_record
from schemas.workspace import Workspace, checked_name
from tgmae.runs.inventory import Item, find, inventory
from train.engine.run_folder import KEPT, UNFINISHED, free_name

CONFIG = "config.toml"


def rename(workspace: Workspace, old: str, new: str) -> Path:
    """Gives a run, also one that was set aside, another name; its new folder.

    Raises UserError for a name that there is not, that is taken or cannot be used, and for a run that is being written.
    """
    item = find(inventory(workspace), old)
    if item.kind == "leftover" or item.folder.parent != workspace.root / "runs":
        raise UserError(f"{item.name} is not a run: only runs have names")
    if KEPT.search(new):
        raise UserError(f"{new!r} ends as the name of a run that was set aside: choose another name")
    target = workspace.run(checked_name("run", new))
    if target.exists() or target.is_symlink():
        raise UserError(f"there is a run {new!r} in {workspace.root}: choose another name, or rename that one first")
    with _owned(item.folder, target):
        item.folder.rename(target)
        _name_in_config(target, new)
    return target


def restore(workspace: Workspace, name: str) -> list[tuple[Path, Path]]:
    """Puts a run that was set aside back in its place; the one there is set aside in turn. The moves, in order."""
    item = find(inventory(workspace), name)
    if item.kind != "kept":
        raise UserError(f"{item.name} was not set aside: `tgmae runs {workspace.root}` lists what was")
    moves, place = [], item.place
    with _owned(item.folder, place):
        if place.exists():
            record = Item(place.name, place, "run").record
            aside = free_name(place, UNFINISHED if record is None else record.fingerprint)
            place.rename(aside)
            moves.append((place, aside))
        item.folder.rename(place)
    return [*moves, (item.folder, place)]


def removable(workspace: Workspace, names: Sequence[str]) -> list[Item]:
    """What the names mean. Raises UserError for what there is not, for links, and for what is being written."""
    items = inventory(workspace)
    chosen = list({item.name: item for item in (find(items, name) for name in names)}.values())
    for item in chosen:
        if item.folder.is_symlink():
            raise UserError(f"{item.folder} is a link to {item.folder.resolve()}: remove it yourself")
        with _owned(item.folder, item.place):
            pass
    return chosen


def remove(item: Item) -> None:
    """Deletes it: out of its place at once, so that a removal that is stopped leaves nothing that looks like a run."""
    with _owned(item.folder, item.place):
        gone = item.folder
        if not gone.name.endswith(".removed"):
            gone = item.folder.with_name(f".{item.folder.name}.removed")
            if gone.exists():
                shutil.rmtree(gone)
            item.folder.rename(gone)
        shutil.rmtree(gone)


@contextmanager
def _owned(*folders: Path) -> Iterator[None]:
    """Holds the locks of the folders, and of the stages inside them. Raises UserError where one is being written."""
    with ExitStack() as stack:
        for folder in dict.fromkeys(folders):
            stack.enter_context(only_writer(folder))
            for lock in sorted(folder.glob(".*.lock")):
                stack.enter_context(only_writer(lock.with_name(lock.name[1:].removesuffix(".lock"))))
        yield


def _name_in_config(folder: Path, name: str) -> None:
    """The run's config says its name, and stage.json the config's size and digest."""
    path = folder / CONFIG
    if not path.is_file():
        return
    before = path.read_text(encoding="utf-8")
    write_bytes(path, re.sub(r'^name = ".*"$', f'name = "{name}"', before, count=1, flags=re.MULTILINE).encode())
    record = read_record(folder)
    if record is not None and CONFIG in record.files:
        entry = StoredFile(bytes=os.path.getsize(path), sha256=sha256_file(path))
        write_record(folder, record.model_copy(update={"files": {**record.files, CONFIG: entry}}))
