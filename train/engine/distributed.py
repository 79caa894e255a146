"""Processes and devices: what torchrun sets up, and starting it where the config asks for several processes."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

# Before there is a process group: default arguments in here keep the one they find. Its threads then outlive it,
# and one that lets a tensor go while the interpreter ends aborts the process.
import torch.distributed.nn.functional

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.lock import only_writer
from schemas.signals import TERMINATED, exit_status
from schemas.toml import dump
from schemas.usable_cores import usable_cores
from train.engine.freed_memory import keep_freed_memory


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the one process that writes files and prints."""
        return self.rank == 0

    def only_writer(self, folder: Path) -> AbstractContextManager[None]:
        """Locks a run's folder, in the main process alone. Errors: UserError when another run has it."""
        return only_writer(folder) if self.main else nullcontext()

    def wait(self) -> None:
        """Until all ranks have come here."""
        if self.world > 1:
            dist.barrier()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, elementwise, on all of them; `values` is overwritten."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over ranks, elementwise, on all of them; `values` is overwritten."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values


def under_torchrun() -> bool:
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is this rank's GPU where there is one, else the CPU. Errors: UserError for a device that is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is not known: auto, cpu, cuda, cuda:1") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = local_rank if device.index is None else device.index
        if index >= count:
            raise UserError(f"device {name!r}, GPU number {index}, is missing: torch sees {count} GPUs")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device


@contextmanager
def process_group(device_name: str) -> Iterator[Ranks]:
    """This process's Ranks; under torchrun joined with the others by NCCL on GPUs and gloo on CPUs."""
    if not under_torchrun():
        yield Ranks(0, 1, choose_device(device_name))
        return
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = choose_device(device_name, local)
    if dist.is_initialized():  # by Ray Train, which also ends it
        yield Ranks(rank, world, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world)
    yield Ranks(rank, world, device)
    # Only after success: with a collective under way, taking NCCL down would wait for ranks that have
    # failed, while a process that just ends makes torchrun end the others.
    dist.destroy_process_group()


def settle_on_cpu(workers: int, device: torch.device) -> None:
    """On a CPU, keeps freed memory and leaves the loader's worker processes a core each; OMP_NUM_THREADS, where set,
    has the last word. On other devices does nothing.

    A thread of torch that waits for its core makes all others wait: measured 10 times slower on two busy cores.
    """
    if device.type != "cpu":
        return
    keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() - workers))


def launch(experiment: Experiment, *arguments: str, command: str = "pretrain") -> None:
    """Runs `python -m train COMMAND` in pretrain.processes processes on this machine, by torchrun, and waits for them.

    Errors: UserError when they end with an error, which they have printed themselves.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text(dump(experiment), encoding="utf-8")
        torchrun = [sys.executable, "-m", "train.engine.torchrun", "--standalone"]
        torchrun += ["--nproc-per-node", str(experiment.pretrain.processes)]
        torchrun += ["-m", "train", command, str(config), "--end-with-parent", *arguments]
        # Threads are shared out, as torchrun would else give each process a single one.
        threads = str(max(usable_cores() // experiment.pretrain.processes, 1))
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        status = exit_status(torchrun, environment)
    if status == TERMINATED:
        raise SystemExit(TERMINATED)
    if status:
        raise UserError(f"{command} in {experiment.pretrain.processes} processes failed: its error is printed above")
