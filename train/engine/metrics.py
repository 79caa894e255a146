"""What a person watches: metrics.jsonl, TensorBoard and a bar, written by rank 0.

Losses and gradient norms of a line are means over the updates since the line before.
"""

import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.atomic import write_bytes
from schemas.errors import UserError
from schemas.progress import Progress

FILE = "metrics.jsonl"


def truncate(path: Path, step: int) -> None:
    """Drops the lines of updates after `step`, and a line cut short, so that a resumed run writes none twice."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    write_bytes(path, b"".join(kept))


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last one that is cut short is left out."""
    lines = path.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


class Metrics:
    """Collects updates and writes a line every `every` of them. `step` counts updates done, from 1."""

    def __init__(self, run: Path, *, title: str, start: int, total: int, every: int, clips_per_step: int,
                 wandb: str = "") -> None:  # fmt: skip
        """wandb: a project of Weights & Biases. Errors: UserError when one is asked for and wandb is not installed."""
        from torch.utils.tensorboard import SummaryWriter  # seconds to import, and only rank 0 needs it

        truncate(run / FILE, start)
        self._path = run / FILE
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
        self._progress = Progress(title, total, done=start, unit="step", workspace=_workspace(run)).start()
        self._wandb = _join_wandb(wandb, run) if wandb else None
        self._total, self._every, self._clips = total, every, clips_per_step
        self._values: dict[str, list[float]] = {}
        self._waited, self._computed, self._updates = 0.0, 0.0, 0
        self._since = time.perf_counter()

    def update(self, step: int, *, epoch: int, lr: float, values: dict[str, float], waited: float, computed: float,
               now: float) -> None:  # fmt: skip
        """values: losses and gradient norm of this update; waited: seconds that the process spent waiting for its data;
        computed: milliseconds that the device spent on it.

        now: when the update had been started, in seconds of perf_counter; its numbers may be read later.
        """
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)
        self._waited += waited
        self._computed += computed
        self._updates += 1
        self._progress.advance()
        if step % self._every == 0 or step == self._total:
            self._write(step, epoch, lr, now)

    def _write(self, step: int, epoch: int, lr: float, now: float) -> None:
        seconds = now - self._since
        pace = self._updates / seconds
        line: dict[str, Any] = {name: sum(values) / len(values) for name, values in self._values.items()}
        line |= {
            "step": step, "epoch": epoch, "lr": lr,
            "clips_per_second": round(pace * self._clips, 3),
            "data_wait": round(self._waited / seconds, 4),  # share of the time
            "compute_ms": round(self._computed / self._updates, 2),  # an update; on a GPU by its own clock
            "wait_ms": round(1000 * self._waited / self._updates, 2),  # an update
            "memory_gb": round(_memory() / 1e9, 3),
            "eta_seconds": round((self._total - step) / pace, 1),
            "time": round(time.time(), 3),
        }  # fmt: skip
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name not in ("step", "time"):
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(line, step=step)
        self._progress.advance(0, loss=f"{line['loss']:.4f}", lr=f"{lr:.2e}", wait=f"{line['data_wait']:.0%}")
        self._values, self._waited, self._computed, self._updates, self._since = {}, 0.0, 0.0, 0, now

    def picture(self, step: int, image_HWC: NDArray[np.uint8] | None) -> None:
        """For TensorBoard."""
        if image_HWC is not None:
            self._board.add_image("reconstruction", image_HWC, step, dataformats="HWC")

    def close(self, error: BaseException | None = None) -> None:
        self._progress.stop(error)
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _workspace(run: Path) -> Path | None:
    """The workspace of runs/NAME or of a folder inside it."""
    return next((folder.parent for folder in run.parents if folder.name == "runs"), None)


def _join_wandb(project: str, run: Path) -> Any:
    """The run of Weights & Biases for this folder: a new one, or the one begun before the run was stopped."""
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise UserError("pretrain.wandb is set, but wandb is not installed: pip install wandb") from error
    identity = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
    quiet = wandb.Settings(silent=True, console="off", x_save_requirements=False)
    return wandb.init(project=project, name=run.name, id=identity, dir=run, resume="allow", settings=quiet)


def _memory() -> float:
    """Peak bytes: of the GPU where one is used, else resident in this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) if sys.platform == "darwin" else float(peak) * 1024
