"""A finished folder stays until what replaces it is finished, too.

The new one is built in a hidden folder next to it and takes its place by two renames. Wherever that is cut off,
`settle` ends with the old folder or the new one, whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas import log
from schemas.errors import UserError
from schemas.lock import only_writer
from schemas.stage import FILE, present, replaced_folder, replacement_folder


def build_folder(folder: Path) -> Path:
    """Where to build: in the folder itself, or, when it is finished, next to it."""
    return replacement_folder(folder) if (folder / FILE).is_file() else folder


def swap(folder: Path) -> None:
    """Puts the finished replacement in the folder's place and removes the old one."""
    os.replace(folder, replaced_folder(folder))
    os.replace(replacement_folder(folder), folder)
    shutil.rmtree(replaced_folder(folder))


def settle(folder: Path) -> None:
    """Ends a swap that was cut off. To be called by the folder's only writer, before it looks."""
    old = replaced_folder(folder)
    if old.is_dir() and not folder.is_dir():
        os.replace(present(folder), folder)
    if old.is_dir():
        shutil.rmtree(old)


def settle_all(root: Path) -> None:
    """Ends every swap in a workspace that was cut off and that nobody is ending."""
    for pattern in (".*.replaced", "*/.*.replaced", "runs/*/.*.replaced"):
        for old in root.glob(pattern):
            folder = old.with_name(old.name[1:].removesuffix(".replaced"))
            with suppress(UserError), only_writer(folder):
                settle(folder)


@contextmanager
def rebuilding(folder: Path) -> Iterator[Path]:
    """An empty folder to build in as its only writer; when the block ends well, it is in the place of `folder`.

    Raises UserError when another process writes there.
    """
    with only_writer(folder):
        settle(folder)
        place = build_folder(folder)
        if place.is_dir():
            shutil.rmtree(place)
        place.mkdir(parents=True)
        log.keep_in(place)
        yield place
        if place != folder:
            swap(folder)
