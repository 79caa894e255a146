"""Files that are either whole or absent: written under a temporary name, synced, renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

TEMPORARY = ".tmp"  # the suffix of a file that is still being written; readers and clean-up know it


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`; on success it is synced and renamed to `path`, else removed."""
    with _temporary(path) as partial:
        yield partial
        _sync(partial)
        os.replace(partial, path)


def write_bytes(path: Path, data: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_once(path: Path, data: bytes) -> None:
    """Of several writers of one file, on whatever machines, the first one's content stays."""
    with _temporary(path) as partial:
        partial.write_bytes(data)
        _sync(partial)
        with suppress(FileExistsError):
            os.link(partial, path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name next to `path` that no other writer has: processes of two machines share numbers. Removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}{TEMPORARY}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Keys sorted, floats in full, NaN refused: equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
