"""What `tgmae run --plan` says of trainings: what suits the device here, and a dry run of one by many processes.

The rates are those of docs/planning.md: measured on a CPU, counted, or assumed of a GPU. Light until asked for ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.runtime.precision import capabilities
from schemas.config import Experiment
from schemas.errors import MissingInput, UserError
from schemas.stage import StageSpec, read_record
from schemas.workspace import Workspace
from tgmae.run import Step
from train.data import sampling
from train.engine.device_defaults import compiles, loader_workers, native_precision
from train.specs import finetune_training_spec, pretrain_spec

TFLOPS, UTILISATION, CORES = 312.0, 0.4, 16  # assumed of each GPU: an A100's bf16 peak, and cores of its machine
DECODING, AUGMENTING = 0.0285, 0.0021  # seconds of a core: a video, and each of its clips (bench/results/stream.json)
SPECS: dict[str, Callable[[Experiment, str], StageSpec]] = {
    "pretrain": pretrain_spec,
    "finetune": finetune_training_spec,
}


def device_lines(experiment: Experiment, steps: Sequence[Step]) -> list[str]:
    """What "auto" comes to on this machine, for each training that would run."""
    kind = device_kind(experiment.pretrain.device)
    lines = []
    for stage in [step.stage for step in steps if step.stage in SPECS and (step.works or step.expected)]:
        precision = native_precision(kind)
        try:
            precision = SPECS[stage](experiment, precision).config["pretrain"]["precision"]  # of a run that was begun
        except MissingInput:
            precision = precision if experiment.pretrain.precision == "auto" else experiment.pretrain.precision
        compiled = "compiled" if compiles(experiment, kind, updates(experiment, stage)) else "not compiled"
        lines.append(
            f"device    {stage} on {'a GPU' if kind == 'cuda' else 'the CPU'}, here: {precision}, {compiled}, "
            f"{loader_workers(experiment, kind)} loader workers"
        )
    return lines


def device_kind(name: str) -> str:
    """cuda or cpu; torch, which takes seconds to import, is not asked."""
    return "cuda" if name.startswith("cuda") or (name == "auto" and capabilities()) else "cpu"


def videos(experiment: Experiment) -> int:
    """At most: as many as are stored, or indexed where none are; 0: not known yet."""
    workspace = Workspace(Path(experiment.workspace))
    records = (read_record(workspace.clips), read_record(workspace.manifest))
    return next((record.counts["done"] for record in records if record is not None), 0)


def updates(experiment: Experiment, stage: str) -> int:
    """At most, of a training."""
    options = experiment.optim if stage == "pretrain" else experiment.finetune
    repeats = experiment.clip.repeats if stage == "pretrain" else 1
    return sampling.updates(videos(experiment), options, repeats)


def rank_lines(experiment: Experiment, ranks: int) -> list[str]:
    """A pretraining by so many processes, a GPU each: its batch, its memory, its hours.

    Errors: UserError when the batch cannot be split, with the nearest that can.
    """
    from train.engine.cost import flops, memory

    optim, repeats = experiment.optim, experiment.clip.repeats
    clips = clips_of_a_process(experiment, ranks)
    precision = experiment.pretrain.precision
    precision = "bfloat16" if precision == "auto" else precision
    fsdp = experiment.pretrain.fsdp
    needed = memory(experiment, clips, precision=precision, sharded_over=ranks if fsdp else 1)
    lines = [
        f"batch     {optim.batch_size} clips = {ranks} processes x {optim.accumulate} micro-batches x {clips} clips",
        (
            f"memory    about {needed.total / 1e9:.1f} GB a GPU: parameters, gradients and optimiser "
            f"{needed.state / 1e9:.1f}{f' (a share of 1/{ranks})' if fsdp else ''}, activations of {clips} clips in "
            f"{precision} {needed.activations / 1e9:.1f}"
        ),
    ]
    count = videos(experiment)
    if not count:
        return [*lines, "hours     not known before the videos are indexed"]
    trained = updates(experiment, "pretrain") * optim.batch_size
    if not trained:
        return [*lines, f"hours     none: {count} videos do not fill one batch"]
    computing = trained * flops(experiment).pretraining / (ranks * TFLOPS * 1e12 * UTILISATION)
    loading = trained / (ranks * CORES * loaded_clips(repeats))
    slower = "computing" if computing >= loading else "loading: see clip.repeats, shard.tune and shard.frame_step"
    return [
        *lines,
        (
            f"hours     about {max(computing, loading) / 3600:.1f} for {optim.epochs} epochs of {count} videos: "
            f"computing {computing / 3600:.1f} ({TFLOPS:.0f} TFLOP/s at {UTILISATION:.0%}), loading "
            f"{loading / 3600:.1f} ({CORES} cores a GPU); what takes longer is {slower}"
        ),
    ]


def clips_of_a_process(experiment: Experiment, ranks: int) -> int:
    """Of a micro-batch. Errors: see rank_lines."""
    optim = experiment.optim
    parts = optim.accumulate * ranks
    step = parts * experiment.clip.repeats
    if optim.batch_size % step:
        below, above = optim.batch_size // step * step, math.ceil(optim.batch_size / step) * step
        choices = " or ".join(str(each) for each in (below, above) if each)
        raise UserError(
            f"optim.batch_size {optim.batch_size} is not a multiple of accumulate x processes x clip.repeats = "
            f"{optim.accumulate} x {ranks} x {experiment.clip.repeats}: set optim.batch_size to {choices}, which "
            "changes the learning rate by the same factor, or use another number of processes"
        )
    return optim.batch_size // parts


def loaded_clips(repeats: int) -> float:
    """Clips a second of a core."""
    return repeats / (DECODING + repeats * AUGMENTING)
