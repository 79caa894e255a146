"""A Ray to work on: started on this machine, or a cluster that is joined; left as it was found.

Local means local: a cluster that happens to run on the machine, or that RAY_ADDRESS names, is joined only where
ray.address asks for it, and nothing of a cluster that was joined is ever removed.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from schemas.config import Ray
from schemas.errors import UserError

CONNECT_SECONDS = 5.0  # to reach the head of a cluster
STARTS = 3  # of a local Ray that times out while it starts
SOCKET_PATH = 107  # bytes that Linux allows
SESSION_PATH = "session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"  # Ray appends this to its folder

_shared: ExitStack | None = None  # ends the Ray that is kept, if one is


@contextmanager
def shared_ray() -> Iterator[ExitStack]:
    """Within it, the Ray that one stage starts serves the stages after it; close() of what it gives ends that Ray."""
    global _shared
    if _shared is not None:
        yield _shared
        return
    kept = _shared = ExitStack()
    try:
        yield kept
    finally:
        _shared = None
        kept.close()


@contextmanager
def connected(config: Ray) -> Iterator[None]:
    """Ray, started or joined; left as it was found, at the end of shared_ray() where that is about it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a tool should not report on its user unasked
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about CPU-only actors
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a call after the end must fail, not start a second Ray
    import ray

    with ExitStack() as own:
        if not ray.is_initialized():
            if config.address:
                _join(config)
                session = None
            else:
                session = _start()
            (own if _shared is None else _shared).callback(_leave, session)
        yield


def _start() -> Path:
    """Starts Ray on this machine; returns the folder of its session."""
    import ray

    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("RAY_TMP_DIR") or "/tmp") / "ray"
    if len(str(folder / SESSION_PATH).encode()) > SOCKET_PATH:
        raise UserError(f"Ray's folder {folder} is too long a path for its sockets: set RAY_TMPDIR to a shorter one")
    if os.environ.get("RAY_ADDRESS"):
        print("RAY_ADDRESS is ignored: ray.address (--ray-address) names a cluster to join", file=sys.stderr)
    for attempt in range(1, STARTS + 1):
        try:
            found = ray.init(address="local", include_dashboard=False, logging_level="ERROR")
            return Path(found.address_info["session_dir"])
        except PermissionError as error:
            raise UserError(f"Ray cannot write to {folder} ({error}): set RAY_TMPDIR to a folder it may use") from error
        except Exception as error:  # Ray raises bare Exceptions for what passes, such as a node that is slow to start
            ray.shutdown()
            reason = " ".join(str(error).split())[:300]
            if attempt == STARTS or isinstance(error, OSError):
                hint = "set RAY_TMPDIR to a folder with room and a short path" if isinstance(error, OSError) else (
                    "is the machine short of memory or processes?")  # fmt: skip
                raise UserError(f"Ray does not start on this machine: {reason} ({hint})") from error
            print(f"Ray did not start ({attempt} of {STARTS}): {reason}", file=sys.stderr)
            time.sleep(attempt)
    raise AssertionError("unreachable")


def _join(config: Ray) -> None:
    import ray

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


def _leave(session: Path | None) -> None:
    """session: of the Ray that was started here; its logs and environments, gigabytes, go with it."""
    import ray

    ray.shutdown()
    if session is not None:
        shutil.rmtree(session, ignore_errors=True)


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
