"""Model FLOPs utilisation of ViT-B and ViT-L, compiled, at three mask ratios."""

from __future__ import annotations

import argparse
from typing import Any

from bench import train_step
from bench.gpu.card import Asked, Keep, median_seconds, share
from schemas.config import Experiment
from train.models.objective import Objective

NEEDS = ("timm",)
SECONDS = 120
RATIOS = (0.9, 0.75, 0.6)
BATCH = {"base": 64, "large": 32, "tiny": 2}


def measure(asked: Asked, keep: Keep) -> None:
    found: dict[str, Any] = {}
    for ratio in RATIOS:
        for size in ("tiny",) if asked.tiny else ("base", "large"):
            found[f"ViT-{size[0].upper()} {ratio}"] = utilisation(asked, size, ratio)
            keep({"steps": found})


def utilisation(asked: Asked, size: str, ratio: float) -> dict[str, Any]:
    toy = {"clip": {"frames": 4, "size": 32}, "model": {"size": "tiny", "patch": 8}}
    sized = toy if asked.tiny else {"model": {"size": size}}
    experiment = Experiment.model_validate({"workspace": "unused", "mask": {"ratio": ratio}, **sized})
    objective = Objective(experiment, None).to(asked.device)
    if not asked.tiny:
        objective.compile_model()
    config, batch = objective.model.config, BATCH[size]
    data = train_step.draw(config, argparse.Namespace(batch=batch, device=asked.device, ratio=ratio))
    seconds = median_seconds(train_step.ours(objective, data, "tube"), asked.device, rounds=2 if asked.tiny else 12)
    flops = batch * train_step.model_flops(config, int(data.masks["tube"][0].sum()))
    return {"clips_per_second": round(batch / seconds, 1), "batch": batch, "mfu": share(flops / seconds, asked.device)}
