"""Which checkpoints a run has, and whether they are whole: read without torch, so that a plan can look, too.

train/engine/checkpoint.py has the layout and writes them.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from schemas.atomic import TEMPORARY, sha256_file
from schemas.errors import UserError
from schemas.foreign_text import shown

FOLDER = "checkpoints"
FORMAT = 2  # of state.json


@dataclass(frozen=True)
class Position:
    """Where a run stands. Batches count when they were trained on, not when they were read ahead."""

    step: int  # updates done = global batches consumed
    epoch: int  # of the next batch
    batch: int  # of the next batch, within its epoch
    seconds: float  # of training so far, over all resumptions
    world: int  # processes that wrote it
    seed: int
    loss: float  # mean over the updates since the checkpoint before


def best(run: Path) -> Path | None:
    """The whole checkpoint before which the loss was lowest; the later one of equals."""
    found = [(state["position"]["loss"], folder) for folder in steps(run) if (state := read_state(folder)) is not None]
    return min(reversed(found), key=itemgetter(0))[1] if found else None


def steps(run: Path) -> list[Path]:
    """The folders of a run's checkpoints, whole or not, oldest first."""
    return sorted((run / FOLDER).glob("step_*"), key=lambda path: (len(path.name), path.name))


def clean(run: Path) -> None:
    """Removes what a killed process left half written."""
    for partial in (run / FOLDER).glob(f".*{TEMPORARY}"):
        shutil.rmtree(partial)


def newest(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last whole checkpoint and its state.json, or None. Damaged ones are named on stderr and ignored.

    Errors: UserError for a checkpoint of another format than this version's.
    """
    for folder in reversed(steps(run)):
        problem, state = _checked(folder)
        if problem is None:
            if state["format"] != FORMAT:
                raise UserError(f"{folder} is of format {state['format']}, this version reads {FORMAT}")
            return folder, state
        print(f"{folder} is damaged ({shown(problem)}): using the one before it", file=sys.stderr)
    return None


def newest_state(run: Path) -> dict[str, Any] | None:
    """state.json of the last checkpoint that has one, its files not looked at; or None."""
    return next((state for folder in reversed(steps(run)) if (state := read_state(folder)) is not None), None)


def read_state(folder: Path) -> dict[str, Any] | None:
    """state.json of a checkpoint, or None where it cannot be read."""
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_bytes())
        state["position"]["loss"] + 0.0
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state


def _checked(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """What is wrong with a checkpoint, if anything, and its state."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        wrong = [name for name, digest in state["files"].items() if sha256_file(folder / name) != digest]
        Position(**state["position"])
        missing = [name for name in ("format", "spec") if name not in state]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}", {}
    if missing:
        return f"state.json lacks {', '.join(missing)}", {}
    return (f"{', '.join(wrong)} has changed since it was written" if wrong else None), state
