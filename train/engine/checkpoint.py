"""Checkpoints that are whole or not there, and that say what run they belong to.

    checkpoints/step_0000500/model.safetensors      weights and buffers of the Objective
                             optimizer.safetensors  AdamW's state, "<parameter>/<name>"
                             state.json             written last: the position, the run's spec, digests of the two

The folder is written under a temporary name, synced and renamed. A checkpoint whose digests do not
agree (a torn disk write) is skipped with a word, and the one before it is used. No random state is
kept: everything random is a function of the seed and the position (train/data/sampling.py, train/pretrain.py).
"""

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from schemas.atomic import TEMPORARY, sha256_file
from schemas.errors import UserError
from schemas.foreign_text import shown
from train.engine.sharding import load_whole, sharded_like, whole, whole_state

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


class Tensors(NamedTuple):
    """What a checkpoint holds, whole and on the CPU."""

    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


def collect(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """Called by all processes where the model is sharded."""
    return Tensors(whole_state(model), _optimizer_tensors(optimizer))


def save(run: Path, position: Position, tensors: Tensors, *, spec: dict[str, Any], keep: int) -> Path:
    """Writes a checkpoint and removes all but the last `keep` and the best, that of the lowest loss.

    `spec` identifies the run (see `load`).
    """
    root = run / FOLDER
    final = root / f"step_{position.step:07d}"
    partial = root / f".{final.name}.{os.getpid()}{TEMPORARY}"
    partial.mkdir(parents=True)
    save_file(tensors.model, partial / "model.safetensors")
    save_file(tensors.optimizer, partial / "optimizer.safetensors")
    files = {path.name: sha256_file(path) for path in sorted(partial.iterdir())}
    state = {"format": FORMAT, "position": asdict(position), "spec": spec, "files": files}
    (partial / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True))
    for path in (*partial.iterdir(), partial):
        _sync(path)
    if final.exists():  # a torn one of the same step
        shutil.rmtree(final)
    os.replace(partial, final)
    _sync(root)
    for old in steps(run)[:-keep]:
        if old != best(run):
            shutil.rmtree(old)
    return final


def best(run: Path) -> Path | None:
    """The whole checkpoint before which the loss was lowest; the later one of equals."""
    found = [(state["position"]["loss"], folder) for folder in steps(run) if (state := _state(folder)) is not None]
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


def load(folder: Path, state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Puts a checkpoint into the model and the optimiser, on whatever device they are."""
    load_whole(model, load_file(folder / "model.safetensors"))
    _load_optimizer(optimizer, load_file(folder / "optimizer.safetensors"))
    return Position(**state["position"])


def _state(folder: Path) -> dict[str, Any] | None:
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


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """State by parameter name (the groups carry them: train/engine/optim.py), moved to the CPU."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state[parameter].items():
                tensors[f"{name}/{key}"] = whole(torch.as_tensor(value)).detach().cpu().contiguous()
    return tensors


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    places = {
        name: (number, parameter)
        for number, (name, parameter) in enumerate(
            pair for group in optimizer.param_groups for pair in zip(group["names"], group["params"], strict=True)
        )
    }
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, _, field = key.rpartition("/")
        number, parameter = places[name]
        state.setdefault(number, {})[field] = sharded_like(value, parameter) if value.ndim else value
    # torch's own loading puts each tensor where its parameter is.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
