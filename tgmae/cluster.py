"""`--ray-address` of what trains: `python -m train` by Ray Train, and the experiments of a sweep side by side.

The nodes see the workspace under the same path and have tgmae installed. Nothing of the loop differs from
torchrun: Ray starts the processes and joins them into a group, and a run resumes from its own checkpoints.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.runtime.engine import worker_gpus
from pipeline.runtime.ray_session import connected
from schemas.atomic import write_bytes
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.foreign_text import shown
from schemas.toml import dump
from schemas.workspace import Workspace


def train_on_ray(command: str, experiment: Experiment, *, rebuild: bool = False) -> None:
    """Runs `command`, such as "pretrain", in pretrain.processes workers of Ray Train and waits for them.

    A worker that dies takes the others with it; all are started again, up to ray.retries times, and go on from the
    last checkpoint. Errors: UserError as the command's own, for a cluster that cannot be reached, and for processes
    that keep dying.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    workspace = Path(experiment.workspace).resolve()
    settled = experiment.model_copy(update={"workspace": str(workspace)})
    folder = Workspace(workspace).run(experiment.name)
    with connected(experiment.ray):
        gpus = worker_gpus(experiment.ray, ray.cluster_resources())
        scaling = ScalingConfig(
            num_workers=experiment.pretrain.processes,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": experiment.ray.cpus, **({"GPU": gpus} if gpus else {})},
        )
        for attempt in range(experiment.ray.retries + 1):
            trainer = TorchTrainer(
                _loop,
                train_loop_config={"command": command, "experiment": dump(settled), "rebuild": rebuild},
                scaling_config=scaling,
                # Ray's own retries would also repeat what the user must put right.
                run_config=RunConfig(name=f"{folder.name}-{attempt}", storage_path=str(workspace / "runs" / ".ray"),
                                     failure_config=FailureConfig(max_failures=0)),
            )  # fmt: skip
            try:
                trainer.fit()
            except TrainingFailedError as error:  # Ray wraps what a worker raised
                ours = _user_error(error)
                if ours is not None:
                    raise ours from None
                reason = shown(" ".join(str(error).split())[-300:])
                print(f"{command}: a process on Ray died ({attempt + 1} of {experiment.ray.retries + 1}): {reason}",
                      file=sys.stderr)  # fmt: skip
            else:
                return
    raise UserError(f"{command} on Ray stopped: its processes died {experiment.ray.retries + 1} times, see above")


def _loop(given: dict[str, Any]) -> None:
    """One process, inside Ray."""
    from schemas.log import capturing
    from schemas.toml import load_experiment
    from train.__main__ import COMMANDS

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text(given["experiment"], encoding="utf-8")
        experiment = load_experiment(config)
    with capturing():
        COMMANDS[given["command"]](experiment, given["rebuild"])


def _user_error(error: BaseException | None) -> UserError | None:
    """The UserError among what Ray wrapped, if any."""
    seen: list[BaseException] = [] if error is None else [error]
    while seen:
        found = seen.pop()
        if isinstance(found, UserError):
            return UserError(str(found.args[0]))
        failures = getattr(found, "worker_failures", None) or {}
        seen += [each for each in (found.__cause__, getattr(found, "cause", None), *failures.values())
                 if isinstance(each, BaseException)]  # fmt: skip
    return None


def side_by_side(chosen: Sequence[Experiment], say: Callable[[str], None]) -> list[str]:
    """A Ray task for each experiment, with as many GPUs as it has processes; `tgmae run` inside it."""
    import ray

    failed = []
    with connected(chosen[0].ray):
        gpus = worker_gpus(chosen[0].ray, ray.cluster_resources())
        waiting = {
            ray.remote(_run).options(
                num_cpus=experiment.ray.cpus * experiment.pretrain.processes,
                num_gpus=gpus * experiment.pretrain.processes, max_retries=experiment.ray.retries,
            ).remote(_written(experiment)): experiment
            for experiment in chosen
        }  # fmt: skip
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            experiment = waiting.pop(done[0])
            problem = ray.get(done[0])
            say(f"== {experiment.name}: {problem or 'done'} ({len(waiting)} to go)")
            if problem:
                failed.append(f"{experiment.name}: {problem}")
    return failed


def _written(experiment: Experiment) -> str:
    """The experiment as a file in its workspace, which all nodes see; in the task it runs without a cluster."""
    workspace = Path(experiment.workspace).resolve()
    local = experiment.model_copy(update={
        "workspace": str(workspace), "ray": experiment.ray.model_copy(update={"address": ""})})  # fmt: skip
    path = Workspace(workspace).root / "experiments" / f"{experiment.name}.sweep.toml"
    write_bytes(path, dump(local).encode())
    return str(path)


def _run(config: str) -> str:
    """Inside Ray: what went wrong, or nothing."""
    done = subprocess.run([sys.executable, "-m", "tgmae", "run", config], stderr=subprocess.PIPE, text=True)
    lines = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"ended with status {done.returncode}")
