"""The stages in their order, and how each is run: the pipeline's here, the trainer's in processes of their own.

A trainer shares no process with Ray, a captioner or CLIP.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline import stage_specs
from pipeline.guides.guide_identity import cached, needs_captions
from pipeline.runtime.stage_folder import begun_in
from schemas.atomic import write_bytes
from schemas.config import Experiment, caption_source
from schemas.errors import UserError
from schemas.signals import exit_status
from schemas.stage import StageSpec
from schemas.toml import dump
from schemas.workspace import Workspace, checked_name
from train import specs
from train.engine.run_folder import Held, Move, displaced, look


class Found(NamedTuple):
    """What lies where a stage that is not current would be made."""

    begun: bool = False  # something that is not complete
    reasons: Sequence[str] = ()  # why it is not what is asked for
    moves: Sequence[Move] = ()  # what is kept elsewhere, in order; the last one brings back what is asked for
    returns: bool = False  # whether it does
    trained: bool = False  # that what is asked for is trained, and only its results are to be made (again)


@dataclass(frozen=True)
class Stage:
    name: str
    spec: Callable[[Experiment], StageSpec]
    run: Callable[[Experiment], None]
    wanted: Callable[[Experiment], bool] = lambda experiment: True
    look: Callable[[StageSpec], Found] = lambda spec: _built(spec)  # in its folder, without changing anything
    displaces: Callable[[Experiment], Move | None] = lambda experiment: None  # what any other run here moves aside
    check: Callable[[Experiment], None] | None = None  # whether its models can be had: within seconds, before any work


def _built(spec: StageSpec) -> Found:
    begun, reasons = begun_in(spec)
    return Found(begun is not None, reasons)


def _trained(spec: StageSpec) -> Found:
    return _found(spec, look(spec))


def _tuned(spec: StageSpec) -> Found:
    training = specs.training_part_of(spec)
    return _found(training, look(training, specs.training_part))


def _run(experiment: Experiment) -> Move | None:
    return displaced(Workspace(Path(experiment.workspace)).run(experiment.name))


def _tuning(experiment: Experiment) -> Move | None:
    return displaced(Workspace(Path(experiment.workspace)).run(experiment.name) / "finetune", specs.training_part)


def _found(spec: StageSpec, held: Held) -> Found:
    begun = held.before is not None and (held.aside is not None or held.checkpoint is not None)
    reasons = [] if held.before is None else spec.differences(held.before)
    return Found(begun, reasons, held.moves, held.back is not None, held.checkpoint is not None)


def _measured(spec: StageSpec) -> Found:
    return Found()  # quick: what is not finished is begun anew


def _index(experiment: Experiment) -> None:
    from pipeline.index import run_index

    run_index(experiment)


def _caption(experiment: Experiment) -> None:
    from pipeline.caption import run_caption

    run_caption(experiment)


def _shard(experiment: Experiment) -> None:
    from pipeline.shard import run_shard

    run_shard(experiment)


def _features(experiment: Experiment) -> None:
    from pipeline.features import run_features

    run_features(experiment)


def _guide(experiment: Experiment) -> None:
    from pipeline.guide import run_guide

    run_guide(experiment)


def _check_captioner(experiment: Experiment) -> None:
    from pipeline.runtime.model_check import check_captioner

    check_captioner(caption_source(experiment.captions), experiment.caption)


def _check_guide(experiment: Experiment) -> None:
    from pipeline.runtime.model_check import check_guide

    check_guide(experiment)


def _check_model(experiment: Experiment) -> None:
    from train.models.sizes import model_config

    model_config(experiment)


def _pretrain(experiment: Experiment) -> None:
    # A run of this name with another config is moved aside: the plan has said why.
    _train("pretrain", experiment, "--rebuild")


def _finetune(experiment: Experiment) -> None:
    _train("finetune", experiment, "--rebuild")


def _probe(experiment: Experiment) -> None:
    _train("probe", experiment)


def _retrieve(experiment: Experiment) -> None:
    _train("retrieve", experiment)


def _guided(experiment: Experiment) -> bool:
    return experiment.guide != "none"


def _captioned(experiment: Experiment) -> bool:
    return experiment.text_name is not None or (_guided(experiment) and needs_captions(experiment.guide))


def _embeddings(experiment: Experiment) -> Experiment:
    return experiment.model_copy(update={"guide": "embeddings"})


def _embedded(experiment: Experiment) -> bool:
    """Whether the contrastive loss reads a sidecar that the guide's stage does not make."""
    return experiment.text_name not in (None, experiment.guide_name)


def _asked(name: str) -> Callable[[Experiment], bool]:
    return lambda experiment: name in experiment.stages


STAGES = (
    Stage("index", stage_specs.index_spec, _index),
    Stage("caption", stage_specs.caption_spec, _caption, _captioned, check=_check_captioner),
    Stage("shard", stage_specs.shard_spec, _shard),
    Stage("features", stage_specs.features_spec, _features, cached, check=_check_guide),
    Stage("guide", stage_specs.guide_spec, _guide, _guided, check=_check_guide),
    Stage(
        "embed",
        lambda experiment: stage_specs.guide_spec(_embeddings(experiment)),
        lambda experiment: _guide(_embeddings(experiment)),
        _embedded,
        check=lambda experiment: _check_guide(_embeddings(experiment)),
    ),
    Stage("pretrain", specs.pretrain_spec, _pretrain, _asked("pretrain"), _trained, _run, _check_model),
    Stage("finetune", specs.finetune_spec, _finetune, _asked("finetune"), _tuned, _tuning),
    Stage("probe", specs.probe_spec, _probe, _asked("probe"), _measured),
    Stage("retrieve", specs.retrieve_spec, _retrieve, _asked("retrieve"), _measured),
)


def part_stages(experiment: Experiment) -> list[Stage]:
    """The sets that a mix of captions is made of: a stage each, to come before `caption`. None for other sets."""
    if "+" not in experiment.captions:
        return []
    return [_part(name) for name in stage_specs.mixed(experiment.captions)]


def _part(name: str) -> Stage:
    def of(experiment: Experiment) -> Experiment:
        return experiment.model_copy(update={"captions": name})

    return Stage(
        "part",
        lambda each: stage_specs.caption_spec(of(each)),
        lambda each: _caption(of(each)),
        check=lambda each: _check_captioner(of(each)),
    )


def _in_its_own_process(arguments: Sequence[str]) -> int:
    return exit_status([sys.executable, "-m", "train", *arguments, "--end-with-parent"])


start_trainer: ContextVar[Callable[[Sequence[str]], int]] = ContextVar("start_trainer", default=_in_its_own_process)
"""Runs `python -m train ARGUMENTS` and returns its exit status."""

ON_CLUSTER = ("pretrain", "finetune")  # commands that run in several processes


def _train(command: str, experiment: Experiment, *options: str) -> None:
    """Runs `python -m train`, which starts torchrun itself for several processes; on a cluster, Ray Train does."""
    if experiment.ray.cluster and command in ON_CLUSTER:
        from tgmae.cluster import train_on_ray

        train_on_ray(command, experiment, rebuild="--rebuild" in options)
        return
    name = checked_name("run", experiment.name)
    config = Workspace(Path(experiment.workspace)).root / "experiments" / f"{name}.toml"
    write_bytes(config, dump(experiment).encode())
    status = start_trainer.get()([command, str(config), *options])
    if status:
        raise UserError(f"{command} ended with status {status}: see the error above")
