"""Commands run where a disk is full or a folder read-only, all in one process: `python unwritable.py COMMANDS.json`.

COMMANDS.json: [{"hazard": "full" or "read-only", "folder": the one that is read-only, "arguments": of tgmae}, ...].
Prints [{"status", "errors", "again"}, ...]: of the command under the hazard, and the status once that is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

LIMIT = 4096  # bytes that a file may have: what the kernel answers then is what a full disk answers
DROP_FROM_BOUNDING_SET, MAY_IGNORE_MODES = 24, (1, 2)  # prctl.h; CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


def obey_modes() -> None:
    """For the program that this process starts next: root, too, cannot write where no one may."""
    for capability in MAY_IGNORE_MODES if os.geteuid() == 0 else ():
        ctypes.CDLL(None).prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)


@contextlib.contextmanager
def full() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(mode)


def called(arguments: list[str]) -> tuple[int, str]:
    """Exit status and what went to standard error, of a child's too where tgmae passes it on."""
    from tgmae.cli import app

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            app(arguments)
        except SystemExit as end:
            return int(end.code or 0), errors.getvalue()
    return 0, errors.getvalue()


def main() -> None:
    from tgmae.stages import start_trainer
    from train.__main__ import main as train

    found = []
    for command in json.loads(Path(sys.argv[1]).read_bytes()):
        # On a full disk a trainer is a process of its own, as for a user.
        here = None if command["hazard"] == "full" else start_trainer.set(train)
        with full() if command["hazard"] == "full" else read_only(Path(command["folder"])):
            status, errors = called(command["arguments"])
        again, _ = called(command["arguments"])
        found.append({"status": status, "errors": errors, "again": again})
        if here is not None:
            start_trainer.reset(here)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
