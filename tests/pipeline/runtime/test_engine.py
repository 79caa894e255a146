"""Ray itself: how long it is kept, and clusters that are not there."""

from __future__ import annotations

import pytest
import ray

from pipeline.runtime.engine import execute
from pipeline.runtime.ray_session import connected, shared_ray
from pipeline.runtime.units import Worker
from schemas.config import Ray
from schemas.errors import UserError


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
        list(execute([], no_worker, Ray(address=address)))
