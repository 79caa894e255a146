"""A small workspace made by the real commands: every stage, the embedded models, one Ray after another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.world.write import write_world
from schemas.toml import dump
from tests.train.conftest import shared_workspace, small, workspace  # noqa: F401
from tgmae.demo.demo import demo_experiment

SMALL = [
    "optim.epochs=2", "optim.warmup_epochs=0", "optim.batch_size=8", "pretrain.workers=0", "shard.max_videos=8",
    "caption.videos_per_shard=8", "probe.batch_size=8", "probe.untrained=false",
]  # fmt: skip

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tgmae() -> Command:
    def call(*arguments: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-m", "tgmae", *map(str, arguments)], capture_output=True, text=True, timeout=600
        )
        if status is not None:
            assert result.returncode == status, result.stdout + result.stderr
        return result

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
        experiment = demo_experiment(into.parent, world, [*SMALL, f"workspace={into}", f"ray.address={ray}"])
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
