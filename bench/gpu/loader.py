"""The loader with all cores feeding ViT-B at mask ratio 0.9, compiled: how long the GPU waits."""

from __future__ import annotations

import time
from typing import Any

import torch

from bench.gpu.card import Asked, Keep, done
from schemas.config import Experiment
from schemas.toml import load_experiment
from schemas.usable_cores import usable_cores
from schemas.workspace import Workspace
from train.data.decoders import decoder
from train.data.device_copies import on_device
from train.data.sampling import BatchPlan
from train.data.stream import ClipDataset, stream
from train.data.videos import open_videos
from train.models.objective import Objective

NEEDS = ("pyarrow",)
SECONDS = 80


def measure(asked: Asked, keep: Keep) -> None:
    experiment = load_experiment(asked.folder / "loader.toml", [])
    found: dict[str, Any] = {"decoder": decoder("auto").__name__, "cores": usable_cores(),
                             "clip": f"{experiment.clip.frames} frames of {experiment.clip.size} px"}  # fmt: skip
    for repeats in (1, 2, 4):
        each = experiment.model_copy(update={"clip": experiment.clip.model_copy(update={"repeats": repeats})})
        found[f"repeats {repeats}"] = fed(asked, each)
        keep(found)


def fed(asked: Asked, experiment: Experiment) -> dict[str, float]:
    device = torch.device(asked.device)
    objective = Objective(experiment, None).to(device)
    if not asked.tiny:
        objective.compile_model()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-5, fused=device.type == "cuda")
    videos = open_videos(_workspace(asked))
    size, updates = (4, 4) if asked.tiny else (64, 40)
    epochs = -(-(updates + 5) * size // (len(videos) * experiment.clip.repeats // size * size or size))
    plan = BatchPlan(shards=videos.column("shard"), seed=0, epochs=epochs, batch_size=size,
                     repeats=experiment.clip.repeats)  # fmt: skip
    dataset = ClipDataset(videos, experiment, objective.model.config.grid)
    workers = 0 if asked.tiny else max(1, usable_cores() - 1)
    batches = on_device(stream(dataset, plan, workers=workers, pin=device.type == "cuda"), device)

    def update(batch: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = objective(batch.clip_BTHWC, batch.visible_index_BV, batch.predicted_index_BM, None,
                             batch.caption_id_B)["loss"]  # fmt: skip
        loss.backward()
        optimizer.step()

    batch = next(batches)
    for _ in range(3):  # compiles
        update(batch)
    done(asked.device)
    began = time.perf_counter()
    for _ in range(updates // 4):  # the same batch again: no loader in it
        update(batch)
    done(asked.device)
    alone = (updates // 4) * size / (time.perf_counter() - began)
    for batch in (next(batches) for _ in range(min(updates // 4, len(plan) // 4))):  # what was ready before is no rate
        update(batch)
    done(asked.device)
    waited, count, began = 0.0, 0, time.perf_counter()
    while count < updates * size and time.perf_counter() - began < asked.seconds / 4:
        asked_at = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked_at
        if batch is None:
            break
        update(batch)
        count += size
    done(asked.device)
    seconds = time.perf_counter() - began
    return {"clips_per_second": round(count / seconds, 1), "step_alone_clips_per_second": round(alone, 1),
            "waiting": round(waited / seconds, 3)}  # fmt: skip


def _workspace(asked: Asked) -> Workspace:
    return Workspace(asked.folder / "workspace")
