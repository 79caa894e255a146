"""Trainers that are there at once: forked from a process that has torch loaded, for tests of what they do, not of how
they are started. `python -m train` and torchrun take five seconds a process; test_pretrain.py and tests/tgmae use them.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, set_start_method
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.toml import dump
from train.__main__ import main

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload([
    "tests.train.forking", "train.pretrain", "train.finetune", "torch._dynamo", "torch.utils.tensorboard",
])  # fmt: skip


def forked(arguments: Sequence[str], said: Path, environment: dict[str, str] | None = None) -> ForkServerProcess:
    """Starts `python -m train` with `arguments` as the head of a session of its own; what it prints goes to `said`."""
    process = SERVER.Process(target=_train, args=(list(arguments), str(said), environment or {}))
    process.start()
    return process


def _train(arguments: list[str], said: str, environment: dict[str, str]) -> None:
    set_start_method(None, force=True)  # loaders' workers are forked as ever, not from the server
    os.setsid()
    os.environ.update(environment)
    with open(said, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(main(arguments))


def kill(process: ForkServerProcess) -> None:
    """Together with its loaders' workers."""
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


@contextmanager
def forked_ranks() -> Iterator[None]:
    """Within it, a run of several processes forks them, where it would else start torchrun."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("train.pretrain", "train.finetune"):
            patch.setattr(f"{module}.launch", _launch)
        yield


def _launch(experiment: Experiment, *arguments: str, command: str = "pretrain") -> None:
    """As train.engine.distributed.launch: the same command in each process, in the environment torchrun sets up."""
    world = experiment.pretrain.processes
    with tempfile.TemporaryDirectory() as folder:
        config, said = Path(folder) / "config.toml", Path(folder) / "said.txt"
        config.write_text(dump(experiment), encoding="utf-8")
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        joined = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": store.host,
                  "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                  "TORCHELASTIC_RESTART_COUNT": "0"}  # fmt: skip
        ranks = [
            forked([command, str(config), *arguments], said, {**joined, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(world)
        ]
        for process in ranks:
            process.join()
        print(said.read_text(), end="", file=sys.stderr, flush=True)
    if any(process.exitcode for process in ranks):
        raise UserError(f"{command} ended with {[process.exitcode for process in ranks]}: its error is printed above")
