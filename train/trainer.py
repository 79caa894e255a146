"""One process's part of a pretraining run: build everything from the experiment, then update after update."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from schemas.atomic import write_json
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import SCHEMA_VERSION, StageSpec
from schemas.workspace import Workspace
from train import checkpoint
from train.distributed import Ranks
from train.masks import hidden_per_slice
from train.metrics import Metrics
from train.objective import Objective
from train.optim import lr_at, parameter_groups, scaled_lr, set_lr
from train.sampling import BatchPlan, digest64
from train.stream import Batch, ClipDataset, stream, text_width
from train.videos import videos_to_pretrain_on


class Update(NamedTuple):
    """An update that was started and whose numbers have not been looked at."""

    step: int  # updates done, this one included
    epoch: int
    lr: float
    waited: float  # seconds for its data
    time: float  # when it had been started, perf_counter seconds
    values: Tensor  # of this rank, then means over ranks, in the order of Trainer.names and the gradient norm
    keys: list[str]  # of this rank's clips


@dataclass(frozen=True)
class Schedule:
    base: float
    minimum: float
    warmup: int  # updates
    total: int

    def __call__(self, step: int) -> float:
        return lr_at(step, base=self.base, warmup=self.warmup, total=self.total, minimum=self.minimum)


class Trainer:
    """One process's part of a run."""

    def __init__(self, experiment: Experiment, spec: StageSpec, ranks: Ranks) -> None:
        self.experiment, self.spec, self.ranks = experiment, spec, ranks
        optim, options = experiment.optim, experiment.pretrain
        self.videos, self.left_out = videos_to_pretrain_on(Workspace(Path(experiment.workspace)), experiment.guide_name)
        self.plan_options: dict[str, Any] = {
            "shards": self.videos.column("shard"), "seed": options.seed, "epochs": optim.epochs,
            "batch_size": optim.batch_size, "accumulate": optim.accumulate, "world": ranks.world,
            "rank": ranks.rank, "shuffle_shards": options.shuffle_shards,
        }  # fmt: skip
        self.plan = BatchPlan(**self.plan_options)
        self.schedule = _schedule(experiment, self.plan)
        width = text_width(self.videos) if experiment.objective.contrastive else None
        self.objective = Objective(experiment, width).to(ranks.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.objective, weight_decay=optim.weight_decay),
            lr=self.schedule.base, betas=optim.betas, fused=True if ranks.device.type == "cuda" else None,
        )  # fmt: skip
        self.parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self.names = ["loss", *["reconstruction"] * bool(experiment.objective.reconstruction),
                      *["contrastive"] * self.objective.contrastive]  # fmt: skip
        if options.compile:
            self.objective.compile_model()
        self.wrapped: nn.Module = self.objective
        if ranks.world > 1:
            ids = [ranks.device.index] if ranks.device.type == "cuda" else None
            # Buffers need no broadcast: the batch norm's statistics are global, hence equal everywhere.
            known = signature(DistributedDataParallel).parameters
            renamed = "forward_sync_buffers" in known  # since torch 2.15
            quiet: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
            self.wrapped = DistributedDataParallel(
                self.objective, device_ids=ids, gradient_as_bucket_view=True, **quiet
            )
        self.step, self.seconds = 0, 0.0
        self.info = _facts(experiment, self.plan, self.schedule, self.objective, len(self.videos), self.left_out)
        self._say(*(f"{name}: {text}" for name, text in self.info.items()))

    def resume(self, folder: Path, state: dict[str, Any]) -> None:
        position = checkpoint.load(folder, state, self.objective, self.optimizer)
        assert (position.epoch, position.batch) == divmod(position.step, self.plan.batches_per_epoch), position
        self.step, self.seconds = position.step, position.seconds
        self._say(f"resumed after update {position.step} of {self.plan.total} from {folder}")
        if position.world != self.ranks.world:
            self._say(
                f"it was written by {position.world} processes, now there are {self.ranks.world}: the same clips meet "
                "in the same batches, but sums are taken in another order, so weights agree to rounding only"
            )

    def train(self) -> None:
        options, device = self.experiment.pretrain, self.ranks.device
        plan = BatchPlan(**self.plan_options, start=self.step)
        dataset = ClipDataset(self.videos, self.experiment, self.objective.model.config.grid)
        batches = stream(dataset, plan, workers=options.workers, pin=device.type == "cuda")
        metrics = None
        if self.ranks.main:
            metrics = Metrics(self.spec.folder, start=self.step, total=plan.total, every=options.log_every,
                              clips_per_step=plan.batch_size)  # fmt: skip
        self.objective.train()
        begun, before = time.perf_counter(), self.seconds
        # Numbers are read one update late, so that a GPU is never waited for while it has nothing to do.
        late: Update | None = None
        try:
            while self.step < plan.total:
                update = self._update(batches)
                if late is not None:
                    self._settle(late, metrics)
                late, self.step = update, update.step
                if self.step % options.save_every == 0 or self.step == plan.total:
                    self._settle(late, metrics)  # what is saved is known to be finite
                    late = None
                    self.seconds = before + time.perf_counter() - begun
                    self._save()
        finally:
            if metrics is not None:
                metrics.close()

    def _update(self, batches: Iterator[Batch]) -> Update:
        """One optimiser step over `accumulate` micro-batches."""
        optim, step = self.experiment.optim, self.step
        torch.manual_seed(digest64(f"{self.experiment.pretrain.seed}/{step}/{self.ranks.rank}"))
        lr = self.schedule(step)
        set_lr(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(len(self.names), device=self.ranks.device)
        keys: list[str] = []
        waited = 0.0
        for micro in range(optim.accumulate):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            keys += batch.keys
            last = micro == optim.accumulate - 1
            quiet = isinstance(self.wrapped, DistributedDataParallel) and not last
            with self.wrapped.no_sync() if quiet else nullcontext():  # type: ignore[operator]
                parts = self._forward(batch)
                (parts["loss"] / optim.accumulate).backward()
            sums += torch.stack([parts[name].detach() for name in self.names]) / optim.accumulate
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if optim.clip_grad:
            nn.utils.clip_grads_with_norm_(self.parameters, optim.clip_grad, norm)
        self.optimizer.step()
        local = torch.cat((sums, norm.detach().float().reshape(1)))
        values = torch.cat((local, self.ranks.mean(local.clone())))
        return Update(step + 1, step // self.plan.batches_per_epoch, lr, waited, time.perf_counter(), values, keys)

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        device = self.ranks.device
        moved = [
            None if tensor is None else tensor.to(device, non_blocking=True)
            for tensor in (batch.clip_BTHWC, batch.visible_index_BV, batch.hidden_index_BM, batch.text_BD,
                           batch.caption_id_B)
        ]  # fmt: skip
        half = self.experiment.pretrain.precision == "bfloat16"
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            parts: dict[str, Tensor] = self.wrapped(*moved)
        return parts

    def _settle(self, update: Update, metrics: Metrics | None) -> None:
        """Looks at an update's numbers. Errors: UserError, on every rank, when one is NaN or infinite."""
        numbers = update.values.tolist()
        names = [*self.names, "grad_norm"]
        local, means = (dict(zip(names, part, strict=True)) for part in (numbers[: len(names)], numbers[len(names) :]))
        if not all(map(math.isfinite, means.values())):
            self._stop(update, local)
        if metrics is not None:
            metrics.update(update.step, epoch=update.epoch, lr=update.lr, values=means,
                           waited=update.waited, now=update.time)  # fmt: skip

    def _stop(self, update: Update, local: dict[str, float]) -> None:
        rank, kept = self.ranks.rank, checkpoint.steps(self.spec.folder)
        path = self.spec.folder / f"nonfinite_rank{rank}.json"
        values = {name: repr(value) for name, value in local.items()}
        write_json(path, {"step": update.step, "rank": rank, "values": values, "keys": update.keys})
        shown = ", ".join(update.keys[:4]) + (", ..." if len(update.keys) > 4 else "")
        raise UserError(
            f"update {update.step} (epoch {update.epoch}, lr {update.lr:.3g}) is not finite: "
            f"{', '.join(f'{name} {value}' for name, value in values.items())} in process {rank}, "
            f"clips {shown} (all of them: {path}). Last good checkpoint: {kept[-1] if kept else 'none'}. "
            "Lower optim.base_lr, clip gradients (optim.clip_grad = 1.0) or set pretrain.precision = 'float32'"
        )

    def _save(self) -> None:
        if self.ranks.main:
            epoch, batch = divmod(self.step, self.plan.batches_per_epoch)
            seed = self.experiment.pretrain.seed
            position = checkpoint.Position(self.step, epoch, batch, self.seconds, self.ranks.world, seed)
            spec = {"schema_version": SCHEMA_VERSION, "fingerprint": self.spec.fingerprint,
                    "config": self.spec.config, "inputs": self.spec.inputs}  # fmt: skip
            checkpoint.save(self.spec.folder, position, self.objective, self.optimizer, spec=spec,
                            keep=self.experiment.pretrain.keep)  # fmt: skip
        self.ranks.wait()

    def _say(self, *lines: str) -> None:
        if self.ranks.main:
            for line in lines:
                print(f"pretrain: {line}", file=sys.stderr, flush=True)


def _schedule(experiment: Experiment, plan: BatchPlan) -> Schedule:
    optim = experiment.optim
    warmup = round(optim.warmup_epochs * plan.batches_per_epoch)
    schedule = Schedule(
        scaled_lr(optim.base_lr, optim.batch_size), scaled_lr(optim.min_lr, optim.batch_size), warmup, plan.total
    )
    try:
        schedule(0)
    except ValueError as error:
        raise UserError(f"optim.warmup_epochs {optim.warmup_epochs} of optim.epochs {optim.epochs}: {error}") from error
    return schedule


def _facts(experiment: Experiment, plan: BatchPlan, schedule: Schedule, objective: Objective, videos: int,
           left_out: int) -> dict[str, str]:  # fmt: skip
    """What a reader of the log must know to compare the run with others; kept in the record, too."""
    optim, mask, config = experiment.optim, experiment.mask, objective.model.config
    slices, patches = config.grid[0], config.grid[1] * config.grid[2]
    hidden = hidden_per_slice(mask.ratio, patches)
    facts = {
        "data": f"{videos} videos, {left_out} left out because the guide has no score map of them; "
        f"{optim.epochs} epochs of {plan.batches_per_epoch} updates = {plan.total} updates",
        "global batch": f"{plan.batch_size} clips = {plan.world} processes x {plan.accumulate} micro-batches "
        f"x {plan.clips_per_rank} clips",
        "learning rate": f"{schedule.base:.6g} = base_lr {optim.base_lr:.6g} x {plan.batch_size} / 256; linear warm-up "
        f"of {schedule.warmup} updates from 0, then cosine to {schedule.minimum:.6g}",
        "mask": f"{mask.kind} hides {hidden} of {patches} patches in each of {slices} slices (ratio {mask.ratio}), "
        f"so {slices * (patches - hidden)} of {config.tokens} tokens are visible",
        "model": f"{experiment.model.size}, {sum(p.numel() for p in objective.parameters()) / 1e6:.1f} M parameters",
    }
    if objective.contrastive:
        facts["negatives"] = f"those of one micro-batch over all processes, {plan.batch_size // plan.accumulate} clips"
    return facts
