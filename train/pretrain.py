"""Pretraining: the loop, its checkpoints and its record.

    python -m train pretrain work/demo.toml [--set optim.epochs=20]
    torchrun --nproc-per-node 8 -m train pretrain configs/ssv2.toml

A run that is killed and started again ends in the same weights as one that was not: bit for bit on
CPU in float32. For this, nothing random outlives an update: the stream is a pure function of its
position (train/data/stream.py), and torch's generator is seeded again for every update.

Gradients are accumulated over `optim.accumulate` micro-batches. The masked-autoencoder loss is then
that of the whole batch; the contrastive loss is not, for its negatives and its batch norm see one
micro-batch, over all processes.
"""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from schemas.atomic import replacing
from schemas.config import Experiment
from schemas.stage import StageRecord, current_record, required_record
from train.engine import resume
from train.engine.device_defaults import loader_workers, native_precision, settled
from train.engine.distributed import launch, process_group, settle_on_cpu, under_torchrun
from train.engine.record import finish
from train.engine.sharding import whole_state
from train.models.weight_files import HEAD, MODEL
from train.specs import pretrain_spec
from train.trainer import Trainer

__all__ = ["HEAD", "MODEL", "run_pretrain", "save_module"]


def run_pretrain(experiment: Experiment, *, rebuild: bool = False) -> StageRecord:
    """Pretrains, or resumes the run of this name; returns at once when it is complete.

    Leaves model.safetensors (a PretrainModel's state), head.safetensors where there is a contrastive
    part, config.toml, metrics.jsonl, tensorboard/, checkpoints/ and stage.json in runs/<name>.
    Errors: UserError when the run's folder holds another run, unless `rebuild`, which moves that one
    aside to runs/<name>.<its fingerprint>, for it took long to make, and takes this one back from there
    where it was set aside before; for anything wrong with data, config or devices; when a loss is NaN
    or infinite.
    """
    spec = pretrain_spec(experiment)
    record = current_record(spec)
    if record is not None:
        return record
    if experiment.pretrain.processes > 1 and not under_torchrun():
        launch(experiment, *["--rebuild"] * rebuild)
        return required_record(spec.folder, "tgmae pretrain")
    with process_group(experiment.pretrain.device) as ranks, ranks.only_writer(spec.folder):
        spec = pretrain_spec(experiment, native_precision(ranks.device.type))
        experiment = settled(experiment, spec, ranks.device.type)
        settle_on_cpu(loader_workers(experiment, ranks.device.type), ranks.device)
        held = resume.state(spec, ranks, rebuild=rebuild)
        record = current_record(spec)
        if record is not None:  # it was kept aside, whole
            return record
        trainer = Trainer(experiment, spec, ranks)  # what is wrong with the config is found before anything is moved
        ranks.wait()  # all have looked: now one may change things
        if ranks.main:
            resume.prepare(experiment, spec, held, (MODEL, HEAD))
        if held.checkpoint is not None:
            trainer.resume(*held.checkpoint)
        trainer.train()
        _finish(trainer)
        ranks.wait()
        return required_record(spec.folder, "tgmae pretrain")


def _finish(trainer: Trainer) -> None:
    """The results, once all updates are done; gathered by all processes, written by one."""
    folder, objective = trainer.spec.folder, trainer.objective
    states = {MODEL: whole_state(objective.model)}
    if objective.contrastive:
        states[HEAD] = whole_state(nn.ModuleDict({"head": objective.head, "temperature": objective.temperature}))
    if not trainer.ranks.main:
        return
    for name, state in states.items():
        _save(folder / name, state)
    counts = {
        "videos": len(trainer.videos),
        "left_out": sum(trainer.left_out.values()),
        "steps": trainer.plan.total,
        "clips": trainer.plan.total * trainer.plan.batch_size,
    }
    files = (MODEL, HEAD, resume.CONFIG)
    finish(trainer.spec, folder / MODEL, files=files, counts=counts, info=trainer.info, seconds=trainer.seconds)


def save_module(path: Path, module: nn.Module, metadata: dict[str, str] | None = None) -> None:
    """A module's state as safetensors, on the CPU, whole or not at all."""
    _save(path, whole_state(module), metadata)


def _save(path: Path, state: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    with replacing(path) as partial:
        save_file(state, partial, metadata)
