"""All that a GPU is needed for, in one command of at most eight minutes, without a network.

    python bench/gpu_check.py prepare [--data FOLDER]   before, on a machine with the pipeline: clips for the part
                                        "loader" and wheels, under work/gpu_check (ignored by git; carry it along)
    python bench/gpu_check.py           on the machine with the GPU [--parts NAME ...] [--videomae CHECKOUT]

A part is a file of bench/gpu. It runs in a process of its own, with a limit of its own, and what it measures is
written at once to bench/results/gpu_NAME.json; gpu_check.json says how each part ended. One whose packages are missing
is skipped. The last part is bench/gpu_world.py, in the time that is left, where its data was prepared.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from bench.gpu.card import Asked, about  # noqa: E402
from bench.gpu_world import LEAN, download  # noqa: E402
from schemas.atomic import write_json  # noqa: E402

PARTS = ("suite", "step", "mfu", "crops", "blip2", "loader")
WORLD = "world"
ENOUGH = 20.0  # seconds, to begin a part
RESULTS = ROOT / "bench" / "results"
FOLDER = Path("work/gpu_check")
WHEELS = ("av", *LEAN, "pytest", "pytest-timeout", "pytest-xdist", "execnet", "pluggy", "iniconfig")
CLIPS = ("clip.frames=16", "clip.stride=4", "clip.size=224", "clip.flip=true", "clip.scales=[1.0, 0.875, 0.75, 0.66]",
         "model.size=base", "model.patch=16", "shard.short_side=256", "guide=none", "mask.kind=tube", "mask.ratio=0.9",
         "mask.text_share=[1,1]", "objective.contrastive=0", "ray.address=none")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=["check", "prepare", "part"], default="check")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, WORLD], default=[*PARTS, WORLD])
    parser.add_argument("--seconds", type=float, default=480, help="for all parts together")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: every part, at sizes for a CPU")
    parser.add_argument("--videomae", type=Path, help="a checkout of the original code, for the part step")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--data", type=Path, help="prepare: class folders of videos, instead of the world's")
    parser.add_argument("--no-wheels", action="store_true", help="prepare: none are downloaded")
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options)
    elif options.command == "part":
        run_part(options.parts[0], options)
    elif options.device == "cpu" and not options.tiny:
        sys.exit("gpu_check: torch sees no GPU here; --tiny rehearses every part on the CPU")
    else:
        sys.exit(check(options))


def check(options: argparse.Namespace) -> int:
    """All parts, one after the other; status 1 where one failed or was late."""
    began = time.monotonic()
    states: dict[str, Any] = {}
    for name in options.parts:
        left = options.seconds - (time.monotonic() - began)
        states[name] = ended(name, options, left)
        print(f"== {name}: {states[name]}", flush=True)
        write_json(options.results / "gpu_check.json", {"about": about(options.device), "parts": states})
    print(f"{time.monotonic() - began:.0f} seconds in all")
    return int(any(state["state"] in ("failed", "late") for state in states.values()))


def ended(name: str, options: argparse.Namespace, left: float) -> dict[str, Any]:
    """How a part ended: done, skipped, failed or late."""
    if name == WORLD:
        limit, missing = left, [] if Path("work/gpu_world/parts").is_dir() else ["what `make gpu-world-data` makes"]
    else:
        part = importlib.import_module(f"bench.gpu.{name}")
        limit, missing = min(left, part.SECONDS), [each for each in part.NEEDS if find_spec(each) is None]
    if name == "loader" and not (options.folder / "loader.toml").is_file():
        missing.append("what `make gpu-check-data` makes")
    if missing:
        return {"state": "skipped", "reason": f"missing: {', '.join(missing)}"}
    if limit < ENOUGH:
        return {"state": "skipped", "reason": f"{max(limit, 0):.0f} seconds were left"}
    began = time.monotonic()
    state = {"state": "done"}
    try:
        subprocess.run(command(name, options, limit), check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        state = {"state": "late", "reason": f"stopped after {limit:.0f} seconds; what it had measured is written"}
    except subprocess.CalledProcessError as error:
        state = {"state": "failed", "reason": f"exit status {error.returncode}"}
    return {**state, "seconds": round(time.monotonic() - began, 1)}


def command(name: str, options: argparse.Namespace, limit: float) -> list[str]:
    if name == WORLD:
        return [sys.executable, "bench/gpu_world.py", "train", "--seconds", str(int(limit - 10))]
    words = [sys.executable, __file__, "part", "--parts", name, "--seconds", str(limit), "--device", options.device,
             "--results", str(options.results), "--folder", str(options.folder)]  # fmt: skip
    return words + ["--tiny"] * options.tiny + (["--videomae", str(options.videomae)] if options.videomae else [])


def run_part(name: str, options: argparse.Namespace) -> None:
    part = importlib.import_module(f"bench.gpu.{name}")
    asked = Asked(options.device, options.tiny, min(options.seconds, part.SECONDS), options.videomae, options.folder)
    part.measure(asked, partial(keep, options.results / f"gpu_{name}.json", about(options.device)))


def keep(path: Path, around: dict[str, Any], found: dict[str, Any]) -> None:
    write_json(path, {"about": around, **found})


def prepare(options: argparse.Namespace) -> None:
    """Shards of videos at full size, their experiment, and wheels for the other machine."""
    from pipeline.world.write import write_world
    from schemas.toml import dump
    from tgmae.demo.demo import demo_experiment
    from tgmae.run import run

    folder, data = options.folder, options.data
    if data is None:
        data = folder / "world"
        write_world(data, videos=12 if options.tiny else 160, size=64 if options.tiny else 256, frames=80, fps=25)
    toy = ["clip.frames=4", "clip.size=32", "model.size=tiny", "model.patch=8"] if options.tiny else []
    experiment = demo_experiment(folder, data, [*CLIPS, *toy, f"workspace={json.dumps(str(folder / 'workspace'))}"])
    run(experiment, only=("index", "shard"))
    (folder / "loader.toml").write_text(dump(experiment), encoding="utf-8")
    shutil.rmtree(folder / "wheels", ignore_errors=True)
    if not options.no_wheels:
        download(WHEELS, folder / "wheels")
    places = [folder / "workspace", folder / "wheels", folder / "loader.toml"]
    carried = [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]
    size = sum(path.stat().st_size for path in carried) / 2**20
    print(f"ready: {size:.0f} MiB; carry {folder} (without {folder}/world), then: make gpu-check")


if __name__ == "__main__":
    main()
