"""One writer at a time for each stage and run.

The lock is the kernel's (flock), on a hidden file next to the folder: it ends with the process that holds it, however
that ends. What the file says of its holder is for messages only.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from schemas.errors import UserError

_held: set[int] = set()  # descriptors


def _let_go() -> None:
    """In a forked process, a loader's worker: it outlives a killed trainer by seconds, and would keep its lock."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in _held:
        os.dup2(nowhere, descriptor, inheritable=False)  # not closed: its number would be given to another file
    os.close(nowhere)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the lock of a stage's or run's folder, which need not exist yet.

    Raises UserError when another process holds it: who, where, since when.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is being written by {_holder(path)}: wait for it to end, or stop it") from None
        except OSError as error:  # a file system without locks
            print(f"{folder}: cannot be locked ({error.strerror}): do not write it twice at a time", file=sys.stderr)
        _held.add(file.fileno())
        try:
            file.truncate(0)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)[:300],
                      "since": datetime.now(timezone.utc).isoformat(timespec="seconds")}  # fmt: skip
            file.write(json.dumps(holder))
            file.flush()
            yield
            if file.fileno() in _held:  # else this is a forked process
                file.truncate(0)
        finally:
            _held.discard(file.fileno())


def writer(folder: Path) -> str:
    """Who writes a stage's or run's folder at this moment; empty where nobody does."""
    path = folder.with_name(f".{folder.name}.lock")
    try:
        with open(path, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(path)
    except OSError:  # there is no lock, or no file system that has them
        return ""
    return ""


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']} ({found['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
