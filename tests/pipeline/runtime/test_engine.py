"""Ray itself: how long it is kept, and clusters that are missing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.runtime.engine import execute
from pipeline.runtime.parts import Parts
from pipeline.runtime.ray_session import connected, shared_ray
from pipeline.runtime.units import ShardResult, Unit, Worker
from schemas.config import Ray
from schemas.errors import UserError
from tests.ray_head import ray_head


@pytest.mark.medium
def test_stages_in_a_row_share_one_ray() -> None:
    with shared_ray() as kept:
        assert not ray.is_initialized()  # until one needs it
        with connected(Ray()):
            node = ray.get_runtime_context().get_node_id()
        with shared_ray(), connected(Ray()):
            assert ray.get_runtime_context().get_node_id() == node
        kept.close()
        assert not ray.is_initialized()
        with connected(Ray()):
            assert ray.get_runtime_context().get_node_id() != node
        assert ray.is_initialized()
    assert not ray.is_initialized()


def no_worker() -> Worker:
    raise AssertionError("there is no work")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nonsense", "host:port"])
def test_an_unreachable_cluster_is_said_at_once(address: str) -> None:
    with pytest.raises(UserError, match=address.removeprefix("ray://")):
        list(execute(Parts([], 1), no_worker, Ray(address=address)))


class Sleeper:
    """Finishes one video, then works for ever."""

    def run(self, unit: Unit) -> Iterator[int | ShardResult]:
        yield 1
        time.sleep(600)


def raylets() -> set[int]:
    """Ray's node processes that this process started."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return {int(line.split()[0]) for line in listed.stdout.splitlines() if "raylet/raylet" in line}


@pytest.mark.slow
def test_a_node_that_dies_is_an_error_and_no_second_ray_is_started(tmp_path: Path) -> None:
    events = execute(Parts([Unit(0, [{}])], 1), Sleeper, Ray(workers=1))
    assert next(events) == 1
    (node,) = raylets()
    os.kill(node, signal.SIGKILL)
    with pytest.raises(UserError, match="node on this machine died.*run the command again"):
        list(events)
    assert not ray.is_initialized() and not raylets() - {node}


def test_a_long_folder_is_named_before_ray_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 20)))
    with pytest.raises(UserError, match="too long a path for its sockets: set RAY_TMPDIR"):
        list(execute(Parts([], 1), no_worker, Ray()))


@pytest.mark.slow
def test_a_node_slow_to_start_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray's own error, raised before the real start: how long a node may take cannot be set from outside."""
    start, slow = ray.init, [True]

    def init(**options: Any) -> Any:
        if slow.pop():
            raise Exception("The current node timed out during startup.")
        return start(**options)

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # of a cluster that is gone
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(time, "sleep", lambda seconds: slow.append(False))
    with connected(Ray()):
        assert ray.is_initialized()
    shown = capsys.readouterr().err
    assert "Ray did not start (1 of 3): The current node timed out" in shown and "RAY_ADDRESS is ignored" in shown
    slow[:] = [True]
    monkeypatch.setattr(time, "sleep", lambda seconds: slow.append(True))
    with pytest.raises(UserError, match="Ray does not start on this machine.*short of memory"), connected(Ray()):
        pass


@pytest.mark.slow
def test_somebody_else_s_ray_is_neither_joined_nor_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that runs on the machine, and that RAY_ADDRESS names."""
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(prefix="ray"))
    with ray_head(6401, cpus=1, environment=os.environ) as theirs:
        resources = (Path(os.environ["RAY_TMPDIR"]) / "ray" / "session_latest").resolve() / "runtime_resources"
        resources.mkdir(exist_ok=True)
        monkeypatch.setenv("RAY_ADDRESS", theirs)
        with connected(Ray()):
            assert len(ray.nodes()) == 1 and ray.get_runtime_context().gcs_address != theirs
            session = ray.get_runtime_context().get_session_name()
        assert resources.is_dir() and not list(resources.parents[1].glob(session))
    shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)
