"""A Ray cluster of its own processes on this machine, as a user starts one; nobody else's Ray is touched.

(`ray stop` would end every Ray of the machine, those of tests that run side by side among them.)
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

CLI = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


@contextmanager
def ray_head(port: int, *, cpus: int, environment: Mapping[str, str]) -> Iterator[str]:
    """Yields HOST:PORT once it answers.

    Its folder is its own where `environment` names none: in Ray's, the address would outlive it, and the next
    `ray.init()` of anybody would wait for it.
    """
    start = ["start", "--head", "--block", f"--port={port}", f"--num-cpus={cpus}", "--include-dashboard=false",
             "--disable-usage-stats"]  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,
        subprocess.Popen([*CLI, *start], env={"RAY_TMPDIR": folder, **environment}, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True) as head,
    ):  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not _answers(port):
                assert head.poll() is None and time.monotonic() < deadline, head.stdout and head.stdout.read()
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            try:
                head.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                head.kill()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
