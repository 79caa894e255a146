"""The same loop on Ray Train: the weights of torchrun, the user's errors as they are, a killed worker resumed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipeline.runtime.ray_session import shared_ray
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.workspace import Workspace
from tests.descendants import descendants
from tests.train.forking import forked_ranks
from tgmae.cluster import train_on_ray
from train.engine.metrics import read
from train.pretrain import run_pretrain

# Ray warns of itself.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*deprecated", "ignore::ResourceWarning")]
Small = Callable[..., Experiment]
RAY = {"ray": {"cpus": 0.5, "retries": 2}}


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """Starting it takes seconds."""
    with shared_ray():
        yield


def folder(experiment: Experiment) -> Path:
    return Workspace(Path(experiment.workspace)).run(experiment.name)


def test_cluster_ends_in_the_weights_of_torchrun(small: Small) -> None:
    contrastive = {"objective": {"contrastive": 1.0}, "optim": {"epochs": 2}}
    by_torchrun = small(name="torchrun", pretrain={"processes": 2}, **contrastive)
    by_ray = small(name="ray", pretrain={"processes": 2}, **contrastive, **RAY)
    with forked_ranks():
        run_pretrain(by_torchrun)
    train_on_ray("pretrain", by_ray)
    ours, theirs = (load_file(folder(run) / "model.safetensors") for run in (by_ray, by_torchrun))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_an_error_of_the_user_s_is_not_tried_again(small: Small) -> None:
    too_large = small(pretrain={"processes": 1}, optim={"batch_size": 64}, **RAY)
    with pytest.raises(UserError, match=r"too few for one batch of 64"):
        train_on_ray("pretrain", too_large)


@pytest.mark.timeout(600)
def test_a_killed_worker_s_run_goes_on_from_its_checkpoint(small: Small, capfd: pytest.CaptureFixture[str]) -> None:
    changes = {"optim": {"epochs": 6}, "pretrain": {"processes": 1, "save_every": 1}}  # long enough to be killed in
    whole, killed = small(name="whole", **changes), small(name="killed", **changes, **RAY)
    run_pretrain(whole)
    deaths: list[int] = []

    def kill() -> None:
        while not list((folder(killed) / "checkpoints").glob("step_*")):
            time.sleep(0.02)
        deaths.extend(descendants(os.getpid(), b"RayTrainWorker"))
        for worker in deaths:
            os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    train_on_ray("pretrain", killed)
    killer.join()
    assert deaths and "a process on Ray died (1 of 3)" in capfd.readouterr().err
    ours, theirs = (load_file(folder(run) / "model.safetensors") for run in (killed, whole))
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert [line["step"] for line in read(folder(killed) / "metrics.jsonl")] == list(range(1, 19))
