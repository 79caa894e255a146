"""What "auto" means on a device: precision, torch.compile and loader workers of a run. Light to import: no torch.

`kind` is the type of torch's device: cpu or cuda.
"""

import os
import shutil

from schemas.config import Experiment
from schemas.stage import StageSpec
from schemas.usable_cores import usable_cores

REPAID = 2000  # updates: compiling takes a minute or two, which a longer run wins back
WORKERS_ON_CPU = 4  # more would take the cores that compute
MOST_WORKERS = 32


def native_precision(kind: str) -> str:
    """bfloat16 where the device computes it natively, else float32; never float16, which needs its loss scaled."""
    if kind != "cuda":
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def loader_workers(experiment: Experiment, kind: str) -> int:
    """pretrain.workers; auto: beside a GPU, a core each of those that this process has, but one for itself."""
    asked = experiment.pretrain.workers
    if asked != "auto":
        return asked
    if kind != "cuda":
        return WORKERS_ON_CPU
    together = int(os.environ.get("LOCAL_WORLD_SIZE", experiment.pretrain.processes))  # on this machine
    return min(MOST_WORKERS, max(1, usable_cores() // together - 1))


def compiles(experiment: Experiment, kind: str, updates: int) -> bool:
    """Whether a run of so many updates is compiled; auto: a long one on a GPU, where there is a C compiler.

    Not with fsdp, whose hooks would cut the graph at every block.
    """
    asked = experiment.pretrain.compile
    if asked != "auto":
        return bool(asked)
    return kind == "cuda" and updates >= REPAID and not experiment.pretrain.fsdp and c_compiler()


def c_compiler() -> bool:
    """Triton builds what starts its kernels."""
    return any(map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang"))))


def compile_mode(experiment: Experiment) -> str | None:
    """torch.compile's; reduce-overhead captures CUDA graphs."""
    return "reduce-overhead" if experiment.pretrain.compile == "reduce-overhead" else None


def settled(experiment: Experiment, spec: StageSpec, kind: str) -> Experiment:
    """The experiment with a value in place of every "auto" but compile's, which depends on the data.

    spec: of the run, whose precision is the one it was begun with (train/specs.py).
    """
    chosen = {"precision": spec.config["pretrain"]["precision"], "workers": loader_workers(experiment, kind)}
    return experiment.model_copy(update={"pretrain": experiment.pretrain.model_copy(update=chosen)})
