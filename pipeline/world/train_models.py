"""Trains the models that `make demo` uses, and measures them.

    python -m pipeline.world.train_models --out pipeline/world/models

The two are trained side by side, one thread each: of models this small, a second thread earns little, and nothing at
all on a machine that is busy. Prints progress, then one line of JSON, which it also writes to <out>/metrics.json.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pipeline.world.dataset import TRAIN_SEED, draw_frames
from pipeline.world.evaluate import MODELS, measure
from schemas.signals import end_with_parent


def train_dual_encoder(out: Path, steps: int, videos: int) -> float:
    """-> seconds it took, drawing included."""
    from pipeline.world.train_clip import train_clip

    began = _alone()
    train_clip(draw_frames(TRAIN_SEED, videos, per_video=6, length=12), out, steps=steps)
    return time.monotonic() - began


def train_captioner(out: Path, steps: int, videos: int) -> float:
    """-> seconds it took, drawing included."""
    from pipeline.world.train_blip2 import train_blip2

    began = _alone()
    train_blip2(draw_frames(TRAIN_SEED, videos, per_video=4, length=12), out, steps=steps)
    return time.monotonic() - began


def _alone() -> float:
    import torch

    torch.set_num_threads(1)
    return time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=MODELS)
    parser.add_argument("--clip-steps", type=int, default=500)
    parser.add_argument("--blip2-steps", type=int, default=500)
    parser.add_argument("--videos", type=int, default=1000, help="training videos to draw")
    parser.add_argument("--only", choices=("clip", "blip2"), help="train this one and keep the other as it is")
    arguments = parser.parse_args()
    work = {
        "clip": (train_dual_encoder, arguments.clip_steps, arguments.videos),
        "blip2": (train_captioner, arguments.blip2_steps, arguments.videos),
    }
    chosen = [arguments.only] if arguments.only else list(work)
    with ProcessPoolExecutor(len(chosen), mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        jobs = {name: pool.submit(work[name][0], arguments.out / name, *work[name][1:]) for name in chosen}
        seconds = {f"seconds_{name}": round(job.result()) for name, job in jobs.items()}
    kept = arguments.out / "metrics.json"
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() and arguments.only else {}
    seconds = {name: value for name, value in before.items() if name.startswith("seconds_")} | seconds
    line = json.dumps({**measure(arguments.out), **seconds})
    kept.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
