"""How fast the trainer's clips come out of the shards, by kind of mask, and how much of that is decoding.

    python bench/stream.py [--videos 32] [--size 256] [--rounds 5]

Draws videos of the embedded world, runs the stages up to the guide on them, then reads clips of VideoMAE's sizes
(16 frames at 224 px, every second frame) as a loader process of the trainer does. Medians over rounds that take the
kinds of mask in turn, so that a busy machine disturbs all alike. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pipeline.world.write import write_world
from schemas.config import Experiment
from schemas.workspace import Workspace
from tgmae.demo import demo_experiment
from tgmae.stages import STAGES
from tgmae.views import token_grid
from train.sampling import generator, random_frames
from train.stream import ClipDataset, decode, read_clip
from train.videos import Videos, open_videos

KINDS = ("top-k", "tube", "random")
SIZES = [
    "clip.size=224", "clip.frames=16", "clip.stride=2", "model.patch=16", "shard.short_side=256", "text.patch=16",
    "text.frame_stride=8", "captions=oracle",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=32)
    parser.add_argument("--size", type=int, default=256, help="of the world's square frames, pixels")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        experiment = demo_experiment(Path(folder), None, SIZES)
        write_world(Path(folder) / "world", videos=options.videos, size=options.size, test_share=0.25)
        for stage in STAGES[:4]:
            stage.run(experiment)
        print(json.dumps(measure(experiment, options.rounds), indent=1))


def measure(experiment: Experiment, rounds: int) -> dict[str, Any]:
    """Clips a second of one thread."""
    torch.set_num_threads(1)
    videos = open_videos(Workspace(Path(experiment.workspace)), experiment.guide_name)
    rates: dict[str, list[float]] = {}
    for epoch in range(rounds):
        for kind in KINDS:
            masked = experiment.model_copy(update={"mask": experiment.mask.model_copy(update={"kind": kind})})
            dataset = ClipDataset(videos, masked, token_grid(masked))
            rates.setdefault(kind, []).append(_rate(len(videos), lambda row, d=dataset, e=epoch: d.sample(e, row)))
        rates.setdefault("decoding alone", []).append(
            _rate(len(videos), lambda row, e=epoch: _decode(videos, experiment, e, row))
        )
    return {
        "clips_per_second_and_core": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "clip": f"{experiment.clip.frames} frames of {experiment.clip.size} px, stride {experiment.clip.stride}",
        "shards": f"short side {experiment.shard.short_side}, a key frame every {experiment.shard.gop}",
        "videos": len(videos),
        "rounds": rounds,
        "cores": os.cpu_count(),
    }


def _rate(count: int, read: Any) -> float:
    started = time.perf_counter()
    for row in range(count):
        read(row)
    return count / (time.perf_counter() - started)


def _decode(videos: Videos, experiment: Experiment, epoch: int, row: int) -> None:
    meta, mp4 = read_clip(videos.clip_place(row))
    clip = experiment.clip
    rng = generator(experiment.pretrain.seed, epoch, meta.video_id)
    decode(mp4, random_frames(meta.frames, frames=clip.frames, stride=clip.stride, rng=rng), meta, meta.video_id)


if __name__ == "__main__":
    main()
