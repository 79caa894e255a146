"""The world at a scale for one GPU: four masks, three seeds, judged by what is seen and by how it moves.

    python bench/gpu_world.py prepare [--real FOLDER LIST] [--more FOLDER]   on a machine with the pipeline: draws the
                                        world, makes shards and maps, fetches wheels, all under work/gpu_world (ignored
                                        by git; carry it to the GPU machine, 64 MiB with everything)
    python bench/gpu_world.py train     on the GPU machine: `python -m train` alone, no pipeline, no network

Labels are motions, so that supervised training from scratch (the first part) says whether they can be learned at this
size. A short run measures the speed; the number of epochs is what --seconds leave each run. Every part has a limit of
time, and the results are written after each: bench/results/gpu_world.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.atomic import write_json
from schemas.config import Experiment
from schemas.toml import dump, load_experiment
from schemas.workspace import Workspace
from train.engine.metrics import FILE, read
from train.evaluation.results import metrics_of

FOLDER = Path("work/gpu_world")
RESULTS = Path("bench/results/gpu_world.json")
SEEDS = 3
LEAN = ("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "tomli-w", "rich", "safetensors")
WHEELS = ("decord", *LEAN)  # installed without what they require, which is among them or THERE
THERE = ("torch", "timm", "numpy", "pyarrow", "packaging", "pyyaml", "typing-extensions", "pygments", "markdown-it-py")
GPU_PYTHON = ("3.12", "manylinux2014_x86_64", "manylinux_2_28_x86_64")
SIZES = (
    "clip.frames=16", "clip.stride=2", "clip.size=64", "clip.repeats=4", "model.size=small", "model.patch=8",
    "mask.ratio=0.75", "optim.batch_size=256", "optim.base_lr=1e-3", "optim.min_lr=1e-5", "optim.clip_grad=1",
    "probe.views=1", "probe.batch_size=256", "pretrain.save_every=100000", "pretrain.log_every=5",
)  # fmt: skip
ROWS = {
    "tube": ("guide=none", "mask.kind=tube", "mask.text_share=[1,1]"),
    "motion-vectors": ("guide=motion-vectors", "mask.kind=motion-vectors", "mask.text_share=[1,1]"),
    "optical-flow": ("guide=optical-flow", "mask.kind=optical-flow", "mask.text_share=[1,1]"),
    "text": ("guide=text", "mask.kind=top-k", "mask.text_share=[0.25,0.25]"),
}
CONTROL = (
    "guide=none", "mask.kind=tube", "mask.text_share=[1,1]", "optim.epochs=1", "optim.warmup_epochs=0",
    "optim.base_lr=1e-12",
    "optim.min_lr=0", "finetune.repeats=4", "finetune.batch_size=64", "finetune.base_lr=4e-3",
    "finetune.layer_decay=1", "finetune.drop_path=0", "finetune.mixup=0", "finetune.cutmix=0",
    'finetune.rand_augment=""', "finetune.erasing=0", "finetune.area=[0.6,1]", "finetune.temporal_views=1",
    "finetune.spatial_views=1", "finetune.clip_grad=1",
)  # fmt: skip
REAL = (
    "clip.frames=16", "clip.stride=2", "clip.size=112", "clip.repeats=8", "model.size=small", "model.patch=16",
    "objective.contrastive=0", "retrieve.text=never",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    making = commands.add_parser("prepare")
    making.add_argument("--videos", type=int, default=1200, help="of the world")
    making.add_argument("--real", type=Path, nargs=2, metavar=("FOLDER", "LIST"), help="labelled clips, see real_clips")
    making.add_argument("--more", type=Path, action="append", default=[], help="clips to pretrain on")
    making.add_argument("--no-wheels", action="store_true")
    training = commands.add_parser("train")
    training.add_argument("--seconds", type=float, default=420, help="for all parts together")
    training.add_argument("--epochs", type=int, help="of each run; not given: as many as --seconds allow")
    training.add_argument("--seeds", type=int, default=SEEDS)
    training.add_argument("--results", type=Path, default=RESULTS)
    for each in (making, training):
        each.add_argument("--folder", type=Path, default=FOLDER)
        each.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
        each.add_argument("--set", action="append", default=[], help="KEY=VALUE for all parts")
    options = parser.parse_args()
    if options.command is None:
        print("gpu_world: first `prepare`, then `train` (make gpu-world)")
    elif options.command == "prepare":
        prepare(options)
    else:
        train(options)


def prepare(options: argparse.Namespace) -> None:
    from pipeline.world.write import write_world
    from tgmae.demo.demo import demo_experiment
    from tgmae.demo.truth_labels import write_motions
    from tgmae.run import DATA, run

    folder: Path = options.folder
    write_world(folder / "world", videos=options.videos, test_share=0.2, size=64, frames=48)
    write_motions(folder / "world" / "truth", folder / "motions.csv")
    listed = ["index.format=csv", f"index.list={json.dumps(str(folder / 'motions.csv'))}", "caption.keyframes=1",
              f"workspace={json.dumps(str(folder / 'workspace'))}", "objective.contrastive=0"]  # fmt: skip
    for name, row in {"control": CONTROL, **{row: ROWS[row] for row in options.rows}}.items():
        made = demo_experiment(folder, folder / "world", [*listed, *SIZES, *row, *options.set, f"name={name}"])
        run(made, only=DATA)
        kept(folder, name, made)
    if options.real:
        prepare_real(options)
    shutil.rmtree(folder / "wheels", ignore_errors=True)
    if not options.no_wheels:
        download(WHEELS, folder / "wheels")
    size = sum(path.stat().st_size for path in carried(folder)) / 2**20
    print(f"ready: {size:.0f} MiB; on the GPU machine: make gpu-world (the world's videos may stay behind)")


def prepare_real(options: argparse.Namespace) -> None:
    """The labelled clips, and those for pretraining alone, as shards of 112 px."""
    import real_clips

    from tgmae.run import DATA, run

    data, file = options.real
    given = argparse.Namespace(
        data=data, list=file, columns=real_clips.COLUMNS, more=options.more, folder=options.folder / "real",
        size=75, epochs=1, set=[*REAL, *options.set],
    )  # fmt: skip
    lists = real_clips.write_lists(given)
    for row in ("tube", "motion-vectors"):
        trained, _ = real_clips.experiments(given, lists, row, 0)
        run(trained, only=DATA)
        kept(options.folder, f"real-{row}", trained)


def kept(folder: Path, name: str, experiment: Experiment) -> None:
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "parts" / f"{name}.toml").write_text(dump(experiment), encoding="utf-8")


def download(names: tuple[str, ...], folder: Path) -> None:
    """The pinned wheels of these packages for the GPU machine, by pip."""
    version, *systems = GPU_PYTHON
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder),
               "--python-version", version, "--only-binary=:all:"]  # fmt: skip
    for system in systems:
        command += ["--platform", system]
    subprocess.run([*command, *pinned(names)], check=True)


def pinned(names: tuple[str, ...]) -> list[str]:
    from packaging.requirements import Requirement

    lines = [line for line in Path("constraints.txt").read_text().splitlines() if not line.startswith("#")]
    there = {"python_version": GPU_PYTHON[0]}
    return [f"{pin.name}{pin.specifier}" for pin in map(Requirement, lines)
            if pin.name in names and (pin.marker is None or pin.marker.evaluate(there))]  # fmt: skip


def carried(folder: Path) -> Iterator[Path]:
    """What the GPU machine needs: not the videos, which are in the shards, nor the masks of their objects."""
    for place in ("parts", "workspace", "real/all", "wheels"):
        yield from (path for path in (folder / place).rglob("*") if path.is_file())
    yield folder / "world" / "truth" / "world.json"


class Parts:
    """Runs `python -m train` for one part after another; what was found is in the file after each."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        self.options, self.began = options, time.monotonic()
        gpu = torch.cuda.is_available()
        self.common = [f"pretrain.precision={'bfloat16' if gpu else 'float32'}",
                       f"pretrain.workers={max(1, (os.cpu_count() or 1) - 2)}", *options.set]  # fmt: skip
        about = {"card": torch.cuda.get_device_name() if gpu else "none, CPU", "torch": torch.__version__,
                 "cores": os.cpu_count(), "python": platform.python_version(),
                 "overrides": [*SIZES, *options.set]}  # fmt: skip
        self.found: dict[str, Any] = {"about": about, "runs": []}

    def left(self) -> float:
        return float(self.options.seconds - (time.monotonic() - self.began))

    def run(self, part: str, name: str, commands: tuple[str, ...], *changes: str) -> Experiment | None:
        """The experiment, once its commands are done; None, and a line in the results, when one fails or is late."""
        overrides = [f"name={json.dumps(name)}", *self.common, *changes]
        config = self.options.folder / "parts" / f"{part}.toml"
        for command in commands:
            words = [sys.executable, "-m", "train", command, str(config)]
            words += [word for each in overrides for word in ("--set", each)]
            try:
                subprocess.run(words, check=True, timeout=max(1, self.left()))
            except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
                self.add({"row": name, "failed": command, "reason": type(error).__name__})
                return None
        return load_experiment(config, overrides)

    def add(self, entry: dict[str, Any]) -> None:
        self.found["runs"].append({**entry, "at_s": round(time.monotonic() - self.began, 1)})
        write_json(self.options.results, self.found)
        print(f"== {json.dumps(entry)}", flush=True)


def train(options: argparse.Namespace) -> None:
    folder: Path = options.folder
    if not (folder / "parts").is_dir():
        sys.exit(f"{folder} has no parts: run `python bench/gpu_world.py prepare` first, and carry the folder here")
    parts = Parts(options)
    real = sorted(path.stem for path in (folder / "parts").glob("real-*.toml"))
    runs = len(options.rows) * options.seeds + 2 + len(real)  # the control counts twice
    epochs = options.epochs or affordable(parts, options.rows[0], runs)
    lasting = (f"optim.epochs={epochs}", f"optim.warmup_epochs={epochs / 10}")
    parts.found["about"]["epochs"] = epochs
    control = parts.run("control", "control", ("pretrain", "finetune"), f"finetune.epochs={2 * epochs}",
                        f"finetune.warmup_epochs={epochs / 5}")  # fmt: skip
    if control is not None:
        metrics = metrics_of(control, "finetune")
        parts.add({"row": "control", "seed": 0, "motion": metrics["top1"]})
    for seed in range(options.seeds):
        for row in options.rows:
            done = parts.run(row, f"{row}-s{seed}", ("pretrain", "probe"), f"pretrain.seed={seed}", *lasting,
                             f"probe.untrained={str(seed == 0 and row == options.rows[0]).lower()}")  # fmt: skip
            if done is not None:
                parts.add({"row": row, "seed": seed, **judged(done, folder / "world" / "truth")})
    for row in real:
        done = parts.run(row, row, ("pretrain", "probe"), *lasting)
        if done is not None:
            found = metrics_of(done, "probe")
            names = {"top1": "linear", "top1_knn": "knn", "chance": "chance"}
            parts.add({"row": row, "seed": 0, **{ours: found[theirs] for theirs, ours in names.items()}})


def affordable(parts: Parts, row: str, runs: int) -> int:
    """Epochs that each of so many runs has time for: two thirds of what is left, for they also start and are probed."""
    speed = parts.run(row, "speed", ("pretrain",), "optim.epochs=2", "optim.warmup_epochs=1")
    if speed is None:
        sys.exit(1)
    lines = read(Workspace(Path(speed.workspace)).run("speed") / FILE)
    rate = max(line["clips_per_second"] for line in lines) / speed.optim.batch_size
    parts.found["about"] |= {"updates_per_s": round(rate, 2), "updates_an_epoch": lines[-1]["step"] // 2}
    return max(2, int(0.6 * parts.left() / runs * rate * 2 / lines[-1]["step"]))


def judged(experiment: Experiment, truth: Path) -> dict[str, float]:
    """Both axes by linear probe and k-NN (and untrained, where the probe measured it), and held-out reconstruction."""
    from tgmae.demo.held_out_loss import held_out_reconstruction
    from tgmae.demo.truth_labels import probe_axis

    seen = probe_axis(experiment, truth, "label")
    return {**probe_axis(experiment, truth, "motion"), **{name.replace("label", "seen"): value
            for name, value in seen.items()}, **held_out_reconstruction(experiment)}  # fmt: skip


if __name__ == "__main__":
    main()
