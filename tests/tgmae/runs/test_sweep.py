"""A sweep runs every experiment with every seed, skips what is done, and tells what failed without stopping for it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UserError
from schemas.toml import load_experiment
from tests.ray_head import CLI, ray_head
from tgmae.run import DATA
from tgmae.runs.sweep import experiments
from tgmae.stages import STAGES

Command = Callable[..., Any]
TINY = ["stages=['pretrain','probe']", "guide=none", "mask.kind=tube", "mask.text_share=[1.0, 1.0]", "optim.epochs=1",
        "optim.warmup_epochs=0"]  # fmt: skip
SETS = [word for each in TINY for word in ("--set", each)]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_seeds_change_the_name_and_every_seed(tmp_path: Path) -> None:
    one = written(tmp_path, "one.toml", 'workspace = "w"\nname = "one"\n')
    two = written(tmp_path, "two.toml", 'workspace = "w"\nname = "two"\n')
    chosen = experiments([one, two], ["optim.epochs=3", "optim.warmup_epochs=0"], seeds=2)
    assert [each.name for each in chosen] == ["one-s0", "two-s0", "one-s1", "two-s1"]
    assert [(each.pretrain.seed, each.finetune.seed) for each in chosen] == [(0, 0), (0, 0), (1, 1), (1, 1)]
    assert all(each.optim.epochs == 3 for each in chosen)
    assert [each.name for each in experiments([one], [], seeds=1)] == ["one"]
    with pytest.raises(UserError, match="several experiments are called one in one workspace"):
        experiments([one, one], [], seeds=1)


def test_experiments_share_every_stage_before_training() -> None:
    """On a cluster these come first, one experiment after the other, the cache of features among them."""
    shared = {stage.name for stage in STAGES} - {"pretrain", "finetune", "probe", "retrieve"}
    assert set(DATA) == shared | {"part"} and "features" in DATA


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_and_its_table(
    tmp_path: Path, tgmae: Command, write_config: Callable[..., Path], finished: Path
) -> None:
    made = Path(load_experiment(finished).workspace)
    for stage in ("manifest", "clips"):
        shutil.copytree(made / stage, tmp_path / "workspace" / stage)
    config = write_config(tmp_path / "tube.toml", tmp_path / "workspace")
    bad = written(tmp_path, "bad.toml", f'base = "{config.name}"\nname = "bad"\n\n[optim]\nbatch_size = 512\n')
    swept = tgmae("sweep", bad, config, "--seeds", 2, *SETS, status=1)
    assert "failed: bad-s0" in swept.stderr and "failed: bad-s1" in swept.stderr
    runs = tmp_path / "workspace" / "runs"
    assert {path.name for path in runs.glob("text-s*")} == {"text-s0", "text-s1"}
    weights = [(runs / name / "model.safetensors").read_bytes() for name in ("text-s0", "text-s1")]
    assert weights[0] != weights[1]
    again = tgmae("sweep", config, "--seeds", 2, *SETS)
    states = [line.split()[1] for line in again.stdout.splitlines() if line.split()[:1] in (["pretrain"], ["probe"])]
    assert states == ["current"] * 4
    table = tgmae("table", tmp_path / "workspace").stdout
    assert "| text " in table and "(2)" in table


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of its own process, as a user starts one; it asks for the token that it left in ~/.ray."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    subprocess.run([*CLI, "get-auth-token", "--generate"], check=True, capture_output=True)
    with ray_head(6399, cpus=2, environment=os.environ) as address:
        yield address


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cluster_trains_side_by_side(tmp_path: Path, write_config: Callable[..., Path], cluster: str) -> None:
    """By a process of its own: Ray reads how it is to authenticate when it is imported."""
    config = write_config(tmp_path / "tube.toml", tmp_path / "workspace")
    sets = [*SETS, "--set", "stages=['pretrain']", "--set", "captions=oracle"]  # embeddings ask for a model
    command = [sys.executable, "-m", "tgmae", "sweep", str(config), "--seeds", "2", "--ray-address", cluster, *sets]
    swept = subprocess.run(command, check=True, capture_output=True, text=True)
    for name in ("text-s0", "text-s1"):
        record = json.loads((tmp_path / "workspace" / "runs" / name / "stage.json").read_bytes())
        assert record["stage"] == "pretrain"
        assert f"== {name}: done" in swept.stdout
