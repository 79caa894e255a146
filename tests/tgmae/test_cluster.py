"""The same loop on Ray Train: the weights of torchrun, the user's errors as they are, a killed worker resumed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
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
    """Starting it takes seconds. It has no dashboard, which Ray Train asks in vain, 12 seconds a training, what is left
    to clean up; it asks for one second here."""
    with pytest.MonkeyPatch.context() as patch, shared_ray():
        with suppress(ImportError):  # another version of Ray
            from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

            patch.setattr(PlacementGroupCleanerCallback.__init__, "__defaults__", (0.2, 1.0, None))
        yield


def folder(experiment: Experiment) -> Path:
    return Workspace(Path(experiment.workspace)).run(experiment.name)


@pytest.mark.timeout(600)
def test_a_killed_worker_s_run_ends_in_the_weights_of_torchrun(small: Small, capfd: pytest.CaptureFixture[str]) -> None:
    """Two workers, of which one dies: Ray begins both again, and the run resumes from its checkpoint."""
    changes = {"objective": {"contrastive": 1.0}, "optim": {"epochs": 4}}  # long enough to be killed in
    processes = {"processes": 2, "save_every": 1}
    by_torchrun = small(name="torchrun", pretrain=processes, **changes)
    by_ray = small(name="ray", pretrain=processes, **changes, **RAY)
    with forked_ranks():
        run_pretrain(by_torchrun)
    killed: list[int] = []

    def kill_one() -> None:
        while not list((folder(by_ray) / "checkpoints").glob("step_*")):
            time.sleep(0.02)
        killed.extend(descendants(os.getpid(), b"RayTrainWorker")[:1])
        for worker in killed:
            os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    train_on_ray("pretrain", by_ray)
    killer.join()
    assert killed and "a process on Ray died (1 of 3)" in capfd.readouterr().err
    ours, theirs = (load_file(folder(run) / "model.safetensors") for run in (by_ray, by_torchrun))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert [line["step"] for line in read(folder(by_ray) / "metrics.jsonl")] == list(range(1, 13))


def test_an_error_of_the_user_s_is_not_tried_again(small: Small) -> None:
    too_large = small(pretrain={"processes": 1}, optim={"batch_size": 64}, **RAY)
    with pytest.raises(UserError, match=r"too few for one batch of 64"):
        train_on_ray("pretrain", too_large)
