"""Actors that hold a worker each, and the parts of shards they are given.

Ray is a stateless executor here. What is done and what is not lies on disk (stage_build.py), so any process of a run
may be killed at any moment. An actor that dies (out of memory, a decoder's crash) is replaced and its part made
again; an exception out of a worker is a fault of the stage and stops it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.runtime.cores import share_cores
from pipeline.runtime.parts import Parts
from pipeline.runtime.ray_session import connected
from pipeline.runtime.units import Advance, Made, ShardResult, Unit, Worker
from schemas.config import Ray
from schemas.errors import UserError, user_error
from schemas.foreign_text import shown
from schemas.progress import console

LOOK_SECONDS = 20.0  # between two looks whether the cluster is still there, while nothing is ready


def execute(
    parts: Parts,
    make_worker: Callable[[], Worker],
    config: Ray,
    *,
    holds_model: bool = False,
    runtime_env: Mapping[str, Any] | None = None,
) -> Iterator[int | Made]:
    """Runs every part on Ray; yields finished videos as they come (negative when a part starts again) and results.

    Results come in the order in which parts finish. Raises UserError when the cluster cannot be reached
    or cannot hold a worker, when the workers' environment (`runtime_env`) cannot be made, when a part keeps
    killing its actor, or when the cluster is lost; an exception of a worker as it is.
    """
    import ray

    with connected(config):
        gpus = worker_gpus(config, ray.cluster_resources()) if holds_model else 0.0
        count = min(parts.most_workers, config.workers or _capacity(config.cpus, gpus, ray.cluster_resources()))
        # Infrastructure faults are ours to retry: Ray would replay a streaming task from its beginning unseen.
        options = {"num_cpus": config.cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        actor = ray.remote(**options, runtime_env=dict(runtime_env or {}))(_Actor)
        cores = max(config.cpus, ray.cluster_resources().get("CPU", 0) / max(1, count))  # as its machine's are shared
        again: deque[tuple[Unit, int]] = deque()  # whose worker died
        running: dict[Any, _RunningUnit] = {}  # by its stream of events

        def next_unit() -> tuple[Unit, int]:
            return again.popleft() if again else (parts.take(count), 0)

        try:
            while again or parts or running:
                while (again or parts) and len(running) < count:
                    names = {str(number + 1) for number in range(count)} - {each.worker for each in running.values()}
                    task = _RunningUnit(*next_unit(), actor.remote(cores), min(names, key=int))
                    running[task.start(make_worker)] = task
                stream = _ready(list(running))
                task = running.pop(stream)
                try:
                    event = ray.get(next(stream))
                except StopIteration:  # the part is done: its actor takes the next one
                    parts.went(len(task.unit.rows), time.monotonic() - task.began)
                    if again or parts:
                        task = _RunningUnit(*next_unit(), task.actor, task.worker)
                        running[task.start(make_worker)] = task
                    else:
                        ray.kill(task.actor)
                    continue
                except ray.exceptions.RayTaskError as error:
                    raise _cause(error) from None
                except ray.exceptions.RuntimeEnvSetupError as error:
                    raise UserError(f"Ray cannot make the workers' environment: {_end(str(error))}") from None
                except ray.exceptions.RayError as error:  # the actor died, or its node did
                    _alive()
                    if not task.made:  # else nothing is lost, and the part may be joined already
                        yield -task.done
                        again.append((task.unit, _counted_death(task, error, config.retries)))
                    continue
                running[stream] = task
                if isinstance(event, int):
                    task.done += event
                    yield Advance.by(event, task.worker, task.unit, task.done)
                else:
                    task.made = True
                    yield Made(task.unit, event)
        finally:
            if ray.is_initialized():
                for task in running.values():
                    ray.kill(task.actor)


def once(call: Callable[[float], int], config: Ray, *, runtime_env: Mapping[str, Any] | None = None) -> int:
    """What `call` returns of the share of a GPU that a worker with a model has: called where such a worker would be, in
    a process that then ends and so frees the GPU; without Ray, here.

    Raises UserError as execute() does; an exception of `call` as it is.
    """
    if config.in_process:
        return call(1.0)
    import ray

    with connected(config):
        gpus = worker_gpus(config, ray.cluster_resources())
        _capacity(config.cpus, gpus, ray.cluster_resources())
        options = {"num_cpus": config.cpus, "num_gpus": gpus, "max_calls": 1, "max_retries": 0}
        task = ray.remote(**options, runtime_env=dict(runtime_env or {}))(_called)
        try:
            return int(ray.get(task.remote(call, min(1.0, gpus) or 1.0)))
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except ray.exceptions.RuntimeEnvSetupError as error:
            raise UserError(f"Ray cannot make the workers' environment: {_end(str(error))}") from None
        except ray.exceptions.RayError as error:
            _alive()
            raise UserError(f"the worker that was to find a batch size died: {_end(str(error))}. Set one") from None


def _called(call: Callable[[float], int], share: float) -> int:
    return call(share)


def _ready(streams: list[Any]) -> Any:
    """A stream with an event. Raises UserError when the cluster is lost while none has."""
    import ray

    while True:
        ready, _ = ray.wait(streams, num_returns=1, fetch_local=True, timeout=LOOK_SECONDS)
        if ready:
            return ready[0]
        _alive()


def _alive() -> None:
    """Raises UserError when no node of the cluster is alive."""
    import ray

    lost = "Ray's node on this machine died, or the cluster is gone: what is done is kept, run the command again"
    try:
        alive = any(node["Alive"] for node in ray.nodes())
    except Exception as error:  # of many classes, by what is gone
        raise UserError(f"{lost} ({' '.join(str(error).split())[:200]})") from error
    if not alive:
        raise UserError(lost)


def _end(text: str) -> str:
    """Where pip prints what is wrong."""
    return " ".join(text.split())[-600:]


class _Actor:
    """A worker inside Ray: made once, by its first part, so that its errors are the part's; then runs many."""

    def __init__(self, cores: float) -> None:
        share_cores(cores)
        self.worker: Worker | None = None

    def run(self, make_worker: Callable[[], Worker], unit: Unit) -> Iterator[int | ShardResult]:
        if self.worker is None:
            self.worker = make_worker()
        yield from self.worker.run(unit)


class _RunningUnit:
    """A part in an actor: how often an actor has died of it, the worker's number, the videos finished so far."""

    def __init__(self, unit: Unit, deaths: int, actor: Any, worker: str) -> None:
        self.unit, self.deaths, self.actor, self.worker, self.done = unit, deaths, actor, worker, 0
        self.began, self.made = time.monotonic(), False

    def start(self, make_worker: Callable[[], Worker]) -> Any:
        return self.actor.run.options(num_returns="streaming").remote(make_worker, self.unit)


def _counted_death(task: _RunningUnit, error: Exception, retries: int) -> int:
    deaths = task.deaths + 1
    reason = " ".join(str(error).split())[:300]
    if deaths > retries:
        raise UserError(f"the worker of shard {task.unit.shard} died {deaths} times, so the stage stops: {reason}")
    replaced = f"the worker of shard {task.unit.shard} died and is replaced ({deaths} of {retries}): {reason}"
    console.print(shown(replaced))
    return deaths


def _cause(error: Any) -> BaseException:
    """The worker's own exception where Ray hands it over, as a UserError where the user can put it right."""
    cause = error.cause if isinstance(error.cause, BaseException) else error
    return user_error(cause) or error


def worker_gpus(config: Ray, resources: dict[str, float]) -> float:
    """GPUs of a worker that holds a model."""
    if config.gpus >= 0:
        return config.gpus
    return 1.0 if resources.get("GPU", 0) >= 1 else 0.0


def _capacity(cpus: float, gpus: float, resources: dict[str, float]) -> int:
    """How many workers the cluster holds; without the check Ray would wait for ever, silently."""
    fit = int(resources.get("CPU", 0) // cpus)
    if gpus:
        fit = min(fit, int(resources.get("GPU", 0) // gpus))
    if fit < 1:
        raise UserError(
            f"no room for a worker of {cpus:g} CPUs and {gpus:g} GPUs: the cluster has "
            f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs (ray.cpus, ray.gpus)"
        )
    return fit
