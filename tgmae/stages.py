"""The stages in their order, and how each is run: the pipeline's here, the trainer's in processes of their own.

The trainer never shares a process with Ray, a captioner or CLIP.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline import specs as pipeline_specs
from schemas.atomic import write_bytes
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import StageSpec
from schemas.toml import dump
from schemas.workspace import Workspace, checked_name
from train import specs as train_specs


@dataclass(frozen=True)
class Stage:
    name: str
    spec: Callable[[Experiment], StageSpec]
    run: Callable[[Experiment], None]
    wanted: Callable[[Experiment], bool] = lambda experiment: True


def _index(experiment: Experiment) -> None:
    from pipeline.index import run_index

    run_index(experiment)


def _caption(experiment: Experiment) -> None:
    from pipeline.caption import run_caption

    run_caption(experiment)


def _shard(experiment: Experiment) -> None:
    from pipeline.shard import run_shard

    run_shard(experiment)


def _guide(experiment: Experiment) -> None:
    from pipeline.guide import run_guide

    run_guide(experiment)


def _pretrain(experiment: Experiment) -> None:
    # A run of this name with another config is moved aside: the plan has said why.
    _train("pretrain", experiment, "--restart")


def _probe(experiment: Experiment) -> None:
    _train("probe", experiment)


def _guided(experiment: Experiment) -> bool:
    return experiment.guide != "none"


STAGES = (
    Stage("index", pipeline_specs.index_spec, _index),
    Stage("caption", pipeline_specs.caption_spec, _caption, _guided),
    Stage("shard", pipeline_specs.shard_spec, _shard),
    Stage("guide", pipeline_specs.guide_spec, _guide, _guided),
    Stage("pretrain", train_specs.pretrain_spec, _pretrain),
    Stage("probe", train_specs.probe_spec, _probe),
)


def _train(command: str, experiment: Experiment, *options: str) -> None:
    """Runs `python -m train`, which starts torchrun itself for several processes; its exit status is ours."""
    name = checked_name("run", experiment.name)
    config = Workspace(Path(experiment.workspace)).root / "experiments" / f"{name}.toml"
    write_bytes(config, dump(experiment).encode())
    result = subprocess.run([sys.executable, "-m", "train", command, str(config), *options])
    if result.returncode in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    if result.returncode:
        raise UserError(f"{command} ended with status {result.returncode}; what it said stands above")
