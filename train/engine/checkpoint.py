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
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from schemas.atomic import TEMPORARY, sha256_file
from train.engine.checkpoint_files import FOLDER, FORMAT, Position, best, steps
from train.engine.sharding import load_whole, sharded_like, whole, whole_state


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


def load(folder: Path, state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Puts a checkpoint into the model and the optimiser, on whatever device they are."""
    load_whole(model, load_file(folder / "model.safetensors"))
    _load_optimizer(optimizer, load_file(folder / "optimizer.safetensors"))
    return Position(**state["position"])


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
