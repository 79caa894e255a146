"""Update after update, for pretraining and fine-tuning alike: what makes a run resumable and watched.

A run is described by four things (see Loop.__init__): its videos, its module, its settings, and how a batch becomes
losses. Everything else is here.
"""

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from schemas.atomic import write_json
from schemas.config import Experiment, Finetune, Optim, Pretrain
from schemas.errors import UserError
from schemas.foreign_text import shown
from schemas.stage import SCHEMA_VERSION, StageSpec
from train.data.device_copies import on_device
from train.data.sampling import BatchPlan, digest64
from train.data.videos import Videos
from train.engine import checkpoint, checkpoint_files
from train.engine.computing_time import ComputingTime
from train.engine.device_defaults import compile_mode
from train.engine.distributed import Ranks
from train.engine.metrics import Metrics
from train.engine.optim import lr_at, parameter_groups, scaled_lr, set_lr
from train.engine.sharding import accumulating, gradient_norm, parallel


class Keyed(Protocol):
    """A micro-batch of this rank."""

    @property
    def keys(self) -> list[str]: ...


class Update(NamedTuple):
    """An update that was started and whose numbers have not been looked at."""

    step: int  # updates done, this one included
    epoch: int
    lr: float
    waited: float  # seconds for its data
    computing: ComputingTime
    time: float  # when it had been started, perf_counter seconds
    values: Tensor  # of this rank, then means over ranks, in the order of Loop.names and the gradient norm
    keys: list[str]  # of this rank's clips


@dataclass(frozen=True)
class Schedule:
    base: float
    minimum: float
    warmup: int  # updates
    total: int

    def __call__(self, step: int) -> float:
        return lr_at(step, base=self.base, warmup=self.warmup, total=self.total, minimum=self.minimum)


@dataclass(frozen=True)
class Settings:
    """Of the config: what one kind of training reads."""

    optim: Optim | Finetune  # the schedule and the optimiser
    options: Pretrain | Finetune  # seed and checkpoints
    section: str  # of the config that `optim` is, for messages
    layer_decay: float = 1.0
    repeats: int = 1  # clips of a video that batch_size counts


class Loop(ABC):
    """One process's part of a run."""

    compiled = False  # whether the module is

    def __init__(self, experiment: Experiment, spec: StageSpec, ranks: Ranks, *, videos: Videos, module: nn.Module,
                 names: Sequence[str], settings: Settings) -> None:  # fmt: skip
        """module: on its device; called by `losses`, whose parts are `names`, "loss" among them.

        spec: what the checkpoints belong to.
        """
        optim, options, section = settings.optim, settings.options, settings.section
        self.experiment, self.spec, self.ranks, self.videos = experiment, spec, ranks, videos
        self.names, self.optim, self.options, self.section = list(names), optim, options, section
        self.plan_options: dict[str, Any] = {
            "shards": videos.column("shard"), "seed": options.seed, "epochs": optim.epochs,
            "batch_size": optim.batch_size, "accumulate": optim.accumulate, "world": ranks.world,
            "rank": ranks.rank, "shuffle_shards": experiment.pretrain.shuffle_shards, "section": section,
            "repeats": settings.repeats,
        }  # fmt: skip
        self.plan = BatchPlan(**self.plan_options)
        self.schedule = _schedule(optim, self.plan, section)
        self.module = module
        self.wrapped = parallel(module, ranks, fsdp=experiment.pretrain.fsdp)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(module, weight_decay=optim.weight_decay, layer_decay=settings.layer_decay),
            lr=self.schedule.base, betas=optim.betas, fused=True if ranks.device.type == "cuda" else None,
        )  # fmt: skip
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.recent: list[float] = []  # losses since the last checkpoint
        self.step, self.seconds = 0, 0.0

    @abstractmethod
    def batches(self, plan: BatchPlan) -> Iterator[Keyed]:
        """The micro-batches of this rank that `plan` names, in its order."""

    @abstractmethod
    def losses(self, batch: Any, micro: int) -> dict[str, Tensor]:
        """Scalars by name, by `self.wrapped`; micro: number of the micro-batch within the update `self.step`."""

    def picture(self) -> NDArray[np.uint8] | None:
        """What the model makes of a clip now, [H, W, 3]; by the main process alone. None: there is no such picture."""
        return None

    @property
    def clips_per_step(self) -> int:
        return self.plan.batch_size

    def resume(self, folder: Path, state: dict[str, Any]) -> None:
        position = checkpoint.load(folder, state, self.module, self.optimizer)
        assert (position.epoch, position.batch) == divmod(position.step, self.plan.batches_per_epoch), position
        self.step, self.seconds = position.step, position.seconds
        self.say(f"resumed after update {position.step} of {self.plan.total} from {folder}")
        if position.world != self.ranks.world:
            self.say(
                f"it was written by {position.world} processes, now there are {self.ranks.world}: the same clips meet "
                "in the same batches, but sums are taken in another order, so weights agree to rounding only"
            )

    def train(self) -> None:
        plan = BatchPlan(**self.plan_options, start=self.step)
        batches = on_device(self.batches(plan), self.ranks.device)
        metrics = None
        if self.ranks.main:
            metrics = Metrics(self.spec.folder, title=self.spec.stage, start=self.step, total=plan.total,
                              every=self.experiment.pretrain.log_every, clips_per_step=self.clips_per_step,
                              wandb=self.experiment.pretrain.wandb)  # fmt: skip
        self.module.train()
        begun, before = time.perf_counter(), self.seconds
        # Numbers are read one update late, so that a GPU is never waited for while it has nothing to do.
        late: Update | None = None
        try:
            while self.step < plan.total:
                update = self._update(batches)
                if late is not None:
                    self._settle(late, metrics)
                late, self.step = update, update.step
                every = self.experiment.pretrain.pictures_every
                if metrics is not None and every and self.step % every == 0:
                    metrics.picture(self.step, self.picture())
                if self.step % self.options.save_every == 0 or self.step == plan.total:
                    self._settle(late, metrics)  # what is saved is known to be finite
                    late = None
                    self.seconds = before + time.perf_counter() - begun
                    self._save()
        finally:
            if metrics is not None:
                metrics.close(sys.exc_info()[1])

    def _update(self, batches: Iterator[Keyed]) -> Update:
        """One optimiser step over `accumulate` micro-batches."""
        optim, step = self.optim, self.step
        torch.manual_seed(digest64(f"{self.options.seed}/{step}/{self.ranks.rank}"))
        lr = self.schedule(step)
        set_lr(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(len(self.names), device=self.ranks.device)
        keys: list[str] = []
        waited, computing = 0.0, ComputingTime(self.ranks.device)
        for micro in range(optim.accumulate):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            keys += batch.keys
            with computing.counted():
                sums += self._accumulate(batch, micro)
        with computing.counted():
            norm = gradient_norm(self.parameters)
            if optim.clip_grad:
                nn.utils.clip_grads_with_norm_(self.parameters, optim.clip_grad, norm)
            self.optimizer.step()
            local = torch.cat((sums, norm.detach().float().reshape(1)))
            values = torch.cat((local, self.ranks.mean(local.clone())))
        epoch = step // self.plan.batches_per_epoch
        return Update(step + 1, epoch, lr, waited, computing, time.perf_counter(), values, keys)

    def _accumulate(self, batch: Keyed, micro: int) -> Tensor:
        """Adds a micro-batch's gradients; gives its share of the update's numbers, in the order of `names`."""
        count = self.optim.accumulate
        if self.compiled and compile_mode(self.experiment):
            torch.compiler.cudagraph_mark_step_begin()  # what the graph gave before may be overwritten
        with accumulating(self.wrapped, last=micro == count - 1):
            half = self.experiment.pretrain.precision == "bfloat16"
            with torch.autocast(self.ranks.device.type, dtype=torch.bfloat16, enabled=half):
                parts = self.losses(batch, micro)
            (parts["loss"] / count).backward()
        return torch.stack([parts[name].detach() for name in self.names]) / count

    def _settle(self, update: Update, metrics: Metrics | None) -> None:
        """Looks at an update's numbers. Errors: UserError, on every rank, when one is NaN or infinite."""
        numbers = update.values.tolist()
        names = [*self.names, "grad_norm"]
        local, means = (dict(zip(names, part, strict=True)) for part in (numbers[: len(names)], numbers[len(names) :]))
        if not all(map(math.isfinite, means.values())):
            self._stop(update, local)
        self.recent.append(means["loss"])
        if metrics is not None:
            metrics.update(update.step, epoch=update.epoch, lr=update.lr, values=means,
                           waited=update.waited, computed=update.computing.milliseconds(), now=update.time)  # fmt: skip

    def _stop(self, update: Update, local: dict[str, float]) -> None:
        rank, kept = self.ranks.rank, checkpoint_files.steps(self.spec.folder)
        path = self.spec.folder / f"nonfinite_rank{rank}.json"
        values = {name: repr(value) for name, value in local.items()}
        write_json(path, {"step": update.step, "rank": rank, "values": values, "keys": update.keys})
        shown = ", ".join(update.keys[:4]) + (", ..." if len(update.keys) > 4 else "")
        raise UserError(
            f"update {update.step} (epoch {update.epoch}, lr {update.lr:.3g}) is not finite: "
            f"{', '.join(f'{name} {value}' for name, value in values.items())} in process {rank}, "
            f"clips {shown} (all of them: {path}). Last good checkpoint: {kept[-1] if kept else 'none'}. "
            f"Lower {self.section}.base_lr, clip gradients ({self.section}.clip_grad = 1.0) or set "
            "pretrain.precision = 'float32'"
        )

    def _save(self) -> None:
        epoch, batch = divmod(self.step, self.plan.batches_per_epoch)
        loss = sum(self.recent) / len(self.recent)
        position = checkpoint_files.Position(
            self.step, epoch, batch, self.seconds, self.ranks.world, self.options.seed, loss
        )  # fmt: skip
        spec = {"schema_version": SCHEMA_VERSION, "fingerprint": self.spec.fingerprint,
                "config": self.spec.config, "inputs": self.spec.inputs}  # fmt: skip
        tensors = checkpoint.collect(self.module, self.optimizer)
        if self.ranks.main:
            checkpoint.save(self.spec.folder, position, tensors, spec=spec, keep=self.options.keep)
        self.recent = []
        self.ranks.wait()

    def say(self, *lines: str) -> None:
        """A line on stderr, by the one process that prints."""
        if self.ranks.main:
            for line in lines:
                print(f"{self.spec.stage}: {shown(line)}", file=sys.stderr, flush=True)


def _schedule(optim: Optim | Finetune, plan: BatchPlan, section: str) -> Schedule:
    warmup = round(optim.warmup_epochs * plan.batches_per_epoch)
    schedule = Schedule(
        scaled_lr(optim.base_lr, optim.batch_size), scaled_lr(optim.min_lr, optim.batch_size), warmup, plan.total
    )
    try:
        schedule(0)
    except ValueError as error:
        raise UserError(
            f"{section}.warmup_epochs {optim.warmup_epochs} of {section}.epochs {optim.epochs}: {error}"
        ) from error
    return schedule


def common_facts(loop: Loop) -> dict[str, str]:
    """What a reader of the log must know to compare the run with others; kept in the record, too."""
    plan, schedule, optim = loop.plan, loop.schedule, loop.optim
    pretrain = loop.experiment.pretrain
    return {
        "device": f"{loop.ranks.device.type}, {pretrain.precision}, {'compiled' if loop.compiled else 'not compiled'}, "
        f"{pretrain.workers} loader workers",
        "data": f"{len(loop.videos)} videos; {optim.epochs} epochs of {plan.batches_per_epoch} updates = "
        f"{plan.total} updates",
        "global batch": f"{plan.batch_size} clips = {plan.world} processes x {plan.accumulate} micro-batches "
        f"x {plan.clips_per_rank} clips",
        "learning rate": f"{schedule.base:.6g} = base_lr {optim.base_lr:.6g} x {plan.batch_size} / 256; linear warm-up "
        f"of {schedule.warmup} updates from 0, then cosine to {schedule.minimum:.6g}",
    }
