"""What only a GPU can show of training, and what of it a CPU can: `pytest -m gpu tests/gpu`, or `make gpu-check`.

Of what the pipeline needs nothing is imported: these tests run where only the trainer's packages are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.utils.data import Dataset

from schemas.config import Experiment
from schemas.stage import StageSpec
from schemas.workspace import Workspace
from train.data.device_copies import on_device
from train.data.loading import loaded
from train.data.sampling import BatchPlan
from train.data.stream import Batch
from train.data.videos import Videos
from train.engine import checkpoint_files
from train.engine.distributed import Ranks
from train.engine.loop import Loop, Settings
from train.engine.metrics import read
from train.engine.sharding import BLOCK, gradient_norm
from train.masking.masks import make_mask
from train.models.objective import Objective
from train.models.videomae import split_mask

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = pytest.mark.skipif(DEVICE.type != "cuda", reason="no GPU")


def experiment(**pretrain: Any) -> Experiment:
    return Experiment.model_validate({
        "workspace": "unused", "guide": "none", "mask": {"kind": "tube"}, "clip": {"frames": 4, "size": 32},
        "model": {"size": "tiny", "patch": 8},
        "optim": {"epochs": 1, "batch_size": 8, "accumulate": 2, "warmup_epochs": 0, "base_lr": 0.02, "clip_grad": 1},
        "pretrain": {"workers": 0, "precision": "float32", "log_every": 1, "save_every": 2, **pretrain},
    })  # fmt: skip


class Drawn(Dataset[Any]):
    """Clips of noise, each a function of its address."""

    def __getitem__(self, address: tuple[int, int]) -> Any:
        rng = np.random.default_rng(address)
        clip = torch.from_numpy(rng.integers(0, 256, (4, 32, 32, 3), np.uint8))
        return clip, torch.from_numpy(make_mask("tube", ratio=0.6, shape=(2, 4, 4), rng=rng).reshape(-1))


def collate(clips: list[Any]) -> Batch:
    mask_BN = torch.stack([mask for _, mask in clips])
    count = len(clips)
    zeros = torch.zeros(count, dtype=torch.int64)
    return Batch(torch.stack([clip for clip, _ in clips]), mask_BN, *split_mask(mask_BN, mask_BN.shape[1]), None, None,
                 zeros, ["key"] * count, zeros)  # fmt: skip


class Noise(Loop):
    """Pretraining on clips of noise."""

    def __init__(self, folder: Path, options: Experiment) -> None:
        videos = Videos(Workspace(folder), pa.table({"shard": np.zeros(32, np.int64)}))
        objective = Objective(options, None).to(DEVICE)
        self.compiled = bool(options.pretrain.compile) and options.pretrain.compile != "auto"
        if self.compiled:
            objective.compile_model("reduce-overhead" if options.pretrain.compile == "reduce-overhead" else None)
        super().__init__(options, StageSpec("pretrain", folder, {}, {}), Ranks(0, 1, DEVICE), videos=videos,
                         module=objective, names=["loss", "reconstruction"],
                         settings=Settings(options.optim, options.pretrain, "optim"))  # fmt: skip

    def batches(self, plan: BatchPlan) -> Iterator[Batch]:
        pin = DEVICE.type == "cuda"
        yield from loaded(Drawn(), plan, collate=collate, workers=0, pin=pin, batch_bytes=0)

    def losses(self, batch: Batch, micro: int) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = self.wrapped(batch.clip_BTHWC, batch.visible_index_BV, batch.predicted_index_BM,
                                                None, batch.caption_id_B)  # fmt: skip
        return parts


def trained(folder: Path, **pretrain: Any) -> tuple[Noise, list[dict[str, Any]]]:
    folder.mkdir()
    loop = Noise(folder, experiment(**pretrain))
    loop.train()
    return loop, read(folder / "metrics.jsonl")


def weights(loop: Loop) -> Tensor:
    return torch.cat([p.detach().flatten() for p in loop.module.parameters()])


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines]


def test_bfloat16_follows_float32(tmp_path: Path) -> None:
    _, full = trained(tmp_path / "full")
    _, half = trained(tmp_path / "half", precision="bfloat16")
    assert losses(half) != losses(full) and losses(half) == pytest.approx(losses(full), rel=0.02)
    assert all(line["compute_ms"] > 0 and line["wait_ms"] >= 0 for line in [*full, *half])


@ON_GPU
@pytest.mark.parametrize("compile", [True, "reduce-overhead"])
def test_compiled_follows_what_is_not(tmp_path: Path, compile: bool | str) -> None:
    _, plain = trained(tmp_path / "plain", precision="bfloat16", compile=False)
    _, compiled = trained(tmp_path / "compiled", precision="bfloat16", compile=compile)
    assert losses(compiled) == pytest.approx(losses(plain), rel=0.02)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    whole, lines = trained(tmp_path / "whole")
    stopped = Noise(tmp_path / "whole", experiment())
    first = next(step for step in checkpoint_files.steps(tmp_path / "whole") if step.name.endswith("2"))
    found = checkpoint_files.read_state(first)
    stopped.resume(first, found)
    assert stopped.step == 2
    stopped.train()
    assert torch.allclose(weights(stopped), weights(whole), rtol=1e-4, atol=1e-6)
    assert losses(read(tmp_path / "whole" / "metrics.jsonl")) == pytest.approx(losses(lines), rel=1e-4)


@pytest.mark.parametrize("sharded", [False, True])
def test_one_process_of_a_group_is_a_process(tmp_path: Path, sharded: bool) -> None:
    """NCCL where there is a GPU, else gloo; DDP, and FSDP2."""
    backend = "nccl" if DEVICE.type == "cuda" else "gloo"
    plain = Objective(experiment(), None).to(DEVICE)
    other: torch.nn.Module = copy.deepcopy(plain)
    batch = next(on_device(iter([collate([Drawn()[0, row] for row in range(4)])]), DEVICE))

    def norm(module: torch.nn.Module) -> float:
        module(batch.clip_BTHWC, batch.visible_index_BV, batch.predicted_index_BM, None, batch.caption_id_B)[
            "loss"
        ].backward()
        return float(gradient_norm([p for p in module.parameters() if p.grad is not None]))

    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        if sharded:
            for block in [each for name, each in other.named_modules() if BLOCK.search(name)]:
                fully_shard(block)
            fully_shard(other)
        else:
            ids = [0] if DEVICE.type == "cuda" else None
            other = torch.nn.parallel.DistributedDataParallel(other, device_ids=ids)
        assert norm(other) == pytest.approx(norm(plain), rel=1e-4)
    finally:
        dist.destroy_process_group()


def test_pinned_batches_arrive_whole_and_in_order() -> None:
    plan = BatchPlan(shards=np.zeros(32, np.int64), seed=0, epochs=2, batch_size=8)
    pin = DEVICE.type == "cuda"
    moved = list(on_device(loaded(Drawn(), plan, collate=collate, workers=2, pin=pin, batch_bytes=0), DEVICE))
    plain = list(loaded(Drawn(), plan, collate=collate, workers=0, pin=False, batch_bytes=0))
    assert len(moved) == len(plain) == 8
    for ours, theirs in zip(moved, plain, strict=True):
        assert ours.clip_BTHWC.device.type == DEVICE.type and ours.clip_BTHWC.dtype == torch.uint8
        assert torch.equal(ours.clip_BTHWC.cpu(), theirs.clip_BTHWC)
        assert torch.equal(ours.visible_index_BV.cpu(), theirs.visible_index_BV)


@ON_GPU
def test_no_update_waits_for_the_gpu(tmp_path: Path) -> None:
    """Between the batch and the next one, nothing is asked of the device that it has to finish first."""
    loop = Noise(tmp_path, experiment(precision="bfloat16"))
    loop.module.train()
    batches = on_device(loop.batches(loop.plan), DEVICE)
    loop._update(batches)  # the first makes the optimiser's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        late = loop._update(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(late.values).all() and late.computing.milliseconds() > 0


@ON_GPU
def test_out_of_memory_halves_the_batch() -> None:
    from pipeline.runtime.device import in_batches

    free, _ = torch.cuda.mem_get_info()

    def fill(part: slice) -> int:
        count = part.stop - part.start
        held = torch.empty(count, free // 10, dtype=torch.uint8, device=DEVICE)
        return int(held.shape[0])

    found, size = in_batches(cast(Any, fill), 32, 32, "the test")
    assert sum(found) == 32 and size < 16
