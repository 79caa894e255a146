"""A small workspace made by the real commands: every stage, the embedded models, one Ray after another.

Trainers run in this process, for torch takes seconds to import: that they are processes of their own, how these end
and what is said of it, test_signals.py and test_disks.py show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from pipeline.world.write import write_world
from schemas.toml import dump
from tests.train.conftest import shared_workspace, small, workspace  # noqa: F401
from tgmae.cli import app
from tgmae.demo.demo import demo_experiment
from tgmae.stages import start_trainer
from train.__main__ import main as train

SMALL = [
    "optim.epochs=2", "optim.warmup_epochs=0", "optim.batch_size=8", "pretrain.workers=0", "shard.max_videos=8",
    "caption.videos_per_shard=8", "probe.batch_size=8", "probe.untrained=false",
]  # fmt: skip

Command = Callable[..., Any]


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session", autouse=True)
def trainers_here() -> Iterator[None]:
    token = start_trainer.set(train)
    yield
    start_trainer.reset(token)


@pytest.fixture(scope="session")
def tgmae() -> Command:
    """The command line, called in this process: what a process of its own does beyond that, test_signals.py shows."""

    def call(*arguments: object, status: int | None = 0) -> Ended:
        result = CliRunner().invoke(app, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if status is not None:
            assert result.exit_code == status, result.output
        return Ended(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 videos, 16 of them to train on."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, videos=24, test_share=1 / 3, workers=1)
    return folder


@pytest.fixture(scope="session")
def write_config(world: Path) -> Callable[..., Path]:
    """(config, workspace) -> a small experiment on the world, without Ray where it is not asked for."""

    def write(path: Path, into: Path, ray: str = "none") -> Path:
        # One worker: each imports its model anew. tests/golden has two.
        sets = [f"workspace={into}", f"ray.address={ray}", "ray.workers=1"]
        experiment = demo_experiment(into.parent, world, [*SMALL, *sets])
        path.write_text(dump(experiment), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tgmae: Command, write_config: Callable[..., Path]) -> Path:
    """The config of a run that is complete, made on Ray. Tests that change its workspace copy it first."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder / "small.toml", folder / "workspace", "")
    tgmae("run", config)
    return config
