"""Pretraining: the loop, its checkpoints and its record.

    python -m train pretrain work/demo.toml [--set optim.epochs=20]
    torchrun --nproc-per-node 8 -m train pretrain configs/ssv2.toml

A run that is killed and started again ends in the same weights as one that was not: bit for bit on
CPU in float32. For this, nothing random outlives an update: the stream is a pure function of its
position (train/stream.py), and torch's generator is seeded anew for every update.

Gradients are accumulated over `optim.accumulate` micro-batches. The masked-autoencoder loss is then
that of the whole batch; the contrastive loss is not, for its negatives and its batch norm see one
micro-batch, over all processes.
"""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from schemas.atomic import replacing, write_bytes
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import FILE as RECORD
from schemas.stage import StageRecord, StageSpec, read_record, required_record
from schemas.toml import dump
from train import checkpoint
from train.distributed import launch, process_group, share_cores, under_torchrun
from train.metrics import FILE as METRICS
from train.record import finish
from train.specs import pretrain_spec
from train.trainer import Trainer

MODEL, HEAD = "model.safetensors", "head.safetensors"


def run_pretrain(experiment: Experiment, *, restart: bool = False) -> StageRecord:
    """Pretrains, or goes on where the run of this name was stopped; returns at once when it is complete.

    Leaves model.safetensors (a PretrainModel's state), head.safetensors where there is a contrastive
    part, config.toml, metrics.jsonl, tensorboard/, checkpoints/ and stage.json in runs/<name>.
    Errors: UserError when the run's folder holds another run, unless `restart`, which moves that one
    aside to runs/<name>.<its fingerprint>, for it took long to make; for anything wrong with data,
    config or devices; when a loss is NaN or infinite.
    """
    spec = pretrain_spec(experiment)
    record = read_record(spec.folder)
    if record is not None and record.fingerprint == spec.fingerprint:
        return record
    if experiment.pretrain.processes > 1 and not under_torchrun():
        launch(experiment, *["--restart"] * restart)
        return required_record(spec.folder, "tgmae pretrain")
    with process_group(experiment.pretrain.device) as ranks:
        share_cores(experiment.pretrain.workers, ranks.device)
        before, found = _state(spec, record, restart=restart)
        ranks.wait()  # all have looked: now one may change things
        if ranks.main:
            if before is not None and before.fingerprint != spec.fingerprint:
                _move_aside(spec.folder, before.fingerprint)
            _prepare(experiment, spec, fresh=found is None)
        trainer = Trainer(experiment, spec, ranks)
        if found is not None:
            trainer.resume(*found)
        trainer.train()
        if ranks.main:
            _finish(trainer)
        ranks.wait()
        return required_record(spec.folder, "tgmae pretrain")


def _state(
    spec: StageSpec, record: StageRecord | None, *, restart: bool
) -> tuple[StageRecord | None, tuple[Path, dict[str, Any]] | None]:
    """What the folder holds, this run or another, and the checkpoint to go on from; None to begin at the beginning."""
    found = checkpoint.newest(spec.folder)
    before = record
    if before is None and found is not None:
        known = {name: found[1]["spec"][name] for name in ("schema_version", "fingerprint", "config", "inputs")}
        before = StageRecord(stage="pretrain", output="", counts={}, failed={}, tools={}, seconds=0, **known)
    if before is None or before.fingerprint == spec.fingerprint:
        return before, found
    if restart:
        return before, None
    raise UserError(
        f"{spec.folder} holds a run of another config or other data: {'; '.join(spec.differences(before))}. "
        "Give this one another name (--set name=NAME), or move that one aside (--restart)"
    )


def _move_aside(folder: Path, fingerprint: str) -> None:
    aside = folder.with_name(f"{folder.name}.{fingerprint}")
    if aside.exists():
        shutil.rmtree(aside)  # an earlier copy of the same run
    folder.rename(aside)
    print(f"pretrain: the run of another config under this name is kept as {aside}")


def _prepare(experiment: Experiment, spec: StageSpec, *, fresh: bool) -> None:
    """The run's folder, with nothing in it of a run that is not continued."""
    spec.folder.mkdir(parents=True, exist_ok=True)
    # stage.json first: should we be stopped between, the rest counts as incomplete, never as whole.
    (spec.folder / RECORD).unlink(missing_ok=True)
    if fresh:
        for name in (MODEL, HEAD, METRICS):
            (spec.folder / name).unlink(missing_ok=True)
        for name in (checkpoint.FOLDER, "tensorboard"):
            if (spec.folder / name).is_dir():
                shutil.rmtree(spec.folder / name)
    checkpoint.clean(spec.folder)
    write_bytes(spec.folder / "config.toml", dump(experiment).encode())


def _finish(trainer: Trainer) -> StageRecord:
    """The results, once all updates are done."""
    folder = trainer.spec.folder
    _save_module(folder / MODEL, trainer.objective.model)
    if trainer.objective.contrastive:
        _save_module(folder / HEAD, nn.ModuleDict({"head": trainer.objective.head,
                                                   "temperature": trainer.objective.temperature}))  # fmt: skip
    counts = {
        "videos": len(trainer.videos),
        "left_out": trainer.left_out,
        "steps": trainer.plan.total,
        "clips": trainer.plan.total * trainer.plan.batch_size,
    }
    return finish(trainer.spec, folder / MODEL, counts=counts, info=trainer.info, seconds=trainer.seconds)


def _save_module(path: Path, module: nn.Module) -> None:
    with replacing(path) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}, partial)
