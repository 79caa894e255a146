"""The one file of the pipeline that knows Ray: actors that hold a worker each, and the shards they are given.

Ray is a stateless executor here. What is done and what is not lies on disk (pipeline/runtime/stage_build.py), so any
process of a run may be killed at any moment. An actor that dies (out of memory, a decoder's crash) is
replaced and its shard made again; an exception out of a worker is a fault of the stage and stops it.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.runtime.units import ShardResult, Unit, Worker
from schemas.config import Ray
from schemas.errors import UserError
from schemas.foreign import shown

CONNECT_SECONDS = 5.0  # to reach the head of a cluster before we say that it is not there


def execute(
    units: list[Unit],
    make_worker: Callable[[], Worker],
    config: Ray,
    *,
    holds_model: bool = False,
    runtime_env: Mapping[str, Any] | None = None,
) -> Iterator[int | ShardResult]:
    """Runs every unit on Ray; yields finished videos as they come (negative when a shard starts again) and results.

    Results come in the order in which shards finish. Raises UserError when the cluster cannot be reached
    or cannot hold a worker, when the workers' environment (`runtime_env`) cannot be made, or when a shard keeps
    killing its actor; an exception of a worker as it is.
    """
    import ray

    with connected(config):
        gpus = worker_gpus(config, ray.cluster_resources()) if holds_model else 0.0
        count = min(len(units), config.workers or _capacity(config.cpus, gpus, ray.cluster_resources()))
        # Infrastructure faults are ours to retry: Ray would replay a streaming task from its beginning unseen.
        options = {"num_cpus": config.cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        actor = ray.remote(**options, runtime_env=dict(runtime_env or {}))(_Actor)
        waiting = deque((unit, 0) for unit in units)
        running: dict[Any, _Flight] = {}  # stream -> what it carries
        try:
            while waiting or running:
                while waiting and len(running) < count:
                    unit, deaths = waiting.popleft()
                    flight = _Flight(unit, deaths, actor.remote())
                    running[flight.start(make_worker)] = flight
                ready, _ = ray.wait(list(running), num_returns=1, fetch_local=True)
                stream = ready[0]
                flight = running.pop(stream)
                try:
                    event = ray.get(next(stream))
                except StopIteration:  # the shard is done: its actor takes the next one
                    if waiting:
                        flight.unit, flight.deaths = waiting.popleft()
                        flight.done = 0
                        running[flight.start(make_worker)] = flight
                    else:
                        ray.kill(flight.actor)
                    continue
                except ray.exceptions.RayTaskError as error:
                    raise _cause(error) from None
                except ray.exceptions.RuntimeEnvSetupError as error:
                    raise UserError(f"Ray cannot make the workers' environment: {_end(str(error))}") from None
                except ray.exceptions.RayError as error:  # the actor died, or its node did
                    yield -flight.done
                    waiting.append((flight.unit, _retried(flight, error, config.retries)))
                    continue
                if isinstance(event, int):
                    flight.done += event
                running[stream] = flight
                yield event
        finally:
            for flight in running.values():
                ray.kill(flight.actor)


def _end(text: str) -> str:
    """Where pip says what is wrong."""
    return " ".join(text.split())[-600:]


class _Actor:
    """A worker inside Ray: made once, by the first shard, so that its errors are the shard's; then runs many."""

    def __init__(self) -> None:
        self.worker: Worker | None = None

    def run(self, make_worker: Callable[[], Worker], unit: Unit) -> Iterator[int | ShardResult]:
        if self.worker is None:
            self.worker = make_worker()
        yield from self.worker.run(unit)


class _Flight:
    """A shard on its way: the unit, how often its actor has died, its actor, the videos finished so far."""

    def __init__(self, unit: Unit, deaths: int, actor: Any) -> None:
        self.unit, self.deaths, self.actor, self.done = unit, deaths, actor, 0

    def start(self, make_worker: Callable[[], Worker]) -> Any:
        return self.actor.run.options(num_returns="streaming").remote(make_worker, self.unit)


def _retried(flight: _Flight, error: Exception, retries: int) -> int:
    deaths = flight.deaths + 1
    reason = " ".join(str(error).split())[:300]
    if deaths > retries:
        raise UserError(f"the worker of shard {flight.unit.shard} died {deaths} times, so the stage stops: {reason}")
    said = f"the worker of shard {flight.unit.shard} died and is replaced ({deaths} of {retries}): {reason}"
    tqdm.write(shown(said), file=sys.stderr)
    return deaths


def _cause(error: Any) -> BaseException:
    """The worker's own exception where Ray hands it over, so that a UserError stays one."""
    cause = error.cause if isinstance(error.cause, BaseException) else error
    return UserError(str(cause.args[0])) if isinstance(cause, UserError) else error


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


_lasting: ExitStack | None = None  # ends the Ray that is kept, if one is


@contextmanager
def lasting() -> Iterator[ExitStack]:
    """Within it, the Ray that one stage starts serves the stages after it; close() of what it gives ends that Ray."""
    global _lasting
    if _lasting is not None:
        yield _lasting
        return
    kept = _lasting = ExitStack()
    try:
        yield kept
    finally:
        _lasting = None
        kept.close()


@contextmanager
def connected(config: Ray) -> Iterator[None]:
    """Ray, started or joined; left as it was found, at the end of lasting() where that is about it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a tool should not report on its user unasked
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about CPU-only actors
    import ray

    with ExitStack() as own:
        if not ray.is_initialized():
            (own if _lasting is None else _lasting).callback(_leave, _join(config))
        yield


def _join(config: Ray) -> Path | None:
    """Joins the cluster, or starts one and gives the folder of the environments that it makes."""
    import ray

    if not config.address:
        session = ray.init(include_dashboard=False, logging_level="ERROR").address_info["session_dir"]
        return Path(session) / "runtime_resources"
    _reachable(config.address)
    try:
        ray.init(address=config.address, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        # Ray hands its token to an address that was named only where it is told to.
        hint = "" if os.environ.get("RAY_AUTH_MODE") else (
            ". A cluster asks for a token by default: set RAY_AUTH_MODE=token and give this machine the cluster's "
            "~/.ray/auth_token"
        )  # fmt: skip
        raise UserError(f"cannot join the Ray cluster at {config.address}: {error}{hint}") from error
    return None


def _leave(made: Path | None) -> None:
    import ray

    ray.shutdown()
    if made is not None:  # Ray leaves the environments that it made: gigabytes
        shutil.rmtree(made, ignore_errors=True)


def _reachable(address: str) -> None:
    """Ray itself waits for minutes before it gives up on an address; a connection attempt answers at once."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise UserError(f"ray.address {address!r} is not HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster answers at {address}: {error}. Start one with `ray start --head`, "
            "or leave ray.address empty to run on this machine"
        ) from error
