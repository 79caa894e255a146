"""AdamW's parameter groups and VideoMAE's learning-rate schedule (its optim_factory and utils).

    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.05), betas=(0.9, 0.95))
    set_lr(optimizer, lr_at(step, base=scaled_lr(1.5e-4, batch), warmup=..., total=...))

Rates are per step, not per epoch.
"""

import math
import re
from typing import Any

import torch
from torch import nn


def scaled_lr(base: float, global_batch: int) -> float:
    """The linear scaling rule, lr = base * B / 256; B is batch_size over all ranks, which in pretraining counts clips,
    repeats included, and in fine-tuning videos (docs/masks.md)."""
    return base * global_batch / 256


def lr_at(step: int, *, base: float, warmup: int, total: int, minimum: float = 0.0) -> float:
    """Learning rate of step 0, 1, ..., total - 1.

    The first `warmup` steps go linearly from 0 to base, both reached; then a half cosine to
    minimum, which is reached at step `total`, the one after the last, and kept from there on.
    VideoMAE scales base and minimum alike (scaled_lr). Errors: ValueError when the warm-up is
    longer than the run.
    """
    assert step >= 0, f"step {step}"
    if not 0 <= warmup <= total:
        raise ValueError(f"a warm-up of {warmup} steps does not fit into {total} steps: train longer or warm up less")
    if step < warmup:
        return base * step / max(warmup - 1, 1)
    if step >= total:
        return minimum
    return minimum + (base - minimum) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay is for matrices: not for biases, norms, temperatures and the mask token."""
    return parameter.ndim > 1 and not name.endswith((".bias", "_bias")) and "mask_token" not in name


def parameter_groups(model: nn.Module, *, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Trainable parameters by (depth, decay), for torch.optim.AdamW.

    Each group has params, names, weight_decay and lr_scale. With layer_decay d < 1
    (fine-tuning) the embedding is layer 0, encoder block i layer i + 1 and the rest, layer
    depth + 1; layer n of them learns d^(depth + 1 - n) times as fast as the head.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    last = 1 + max((_block(name) + 1 for name, _ in model.named_parameters()), default=0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named:
        layer = last if layer_decay == 1.0 else _layer(name, last)
        decay = decays(name, parameter)
        group = groups.setdefault((layer, decay), {
            "params": [], "names": [], "weight_decay": weight_decay if decay else 0.0,
            "lr_scale": layer_decay ** (last - layer),
        })  # fmt: skip
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate to lr times its lr_scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def _block(name: str) -> int:
    """Index of the encoder block that a parameter belongs to, -1 if none."""
    found = re.search(r"encoder\.blocks\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _layer(name: str, last: int) -> int:
    if "encoder.patch_embed." in name:
        return 0
    block = _block(name)
    return last if block < 0 else block + 1
