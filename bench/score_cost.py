"""What the text guide's maps of a dataset cost, offline and as the paper computes them, in every step.

    python bench/score_cost.py [--model ViT-B-32] [--device cuda] [--tflops 312 --utilisation 0.4]

Measured here: crops a second of the encoder (random weights, the real architecture, the guide's own code: crops cut
and resized, embedded, compared), its FLOPs by torch's counter, and what share they are of the rate of a large matrix
product on the same device. Derived: FLOPs of a dataset, from its videos and their length, and hours on 1 and 64 GPUs
of `--tflops` at `--utilisation`, which are assumptions. The encoder's share alone: decoding runs next to it, captions
come once in both ways. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from pipeline.guides.encoder import TextEncoder
from pipeline.guides.grid import grid
from schemas.config import Text

DATASETS = {  # videos to pretrain on, seconds, frames a second; the frame at short side 256
    "Kinetics-400": (240_000, 10, 30, (256, 340)),
    "Something-Something v2": (220_000, 4, 12, (256, 455)),
}
EPOCHS, CLIP, TOKENS, CAPTIONS = 800, 16, 196, 3  # of the paper's pretraining: a clip an epoch, all its frames scored
GPUS = (1, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32", help="open_clip architecture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--crops", type=int, default=64, help="of a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tflops", type=float, default=312, help="of a GPU: bf16, dense")
    parser.add_argument("--utilisation", type=float, default=0.4, help="of a GPU")
    options = parser.parse_args()
    print(json.dumps(measure(options), indent=1))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        state = open_clip.create_model(options.model).state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, weights)
        text = Text(model=options.model, pretrained=str(weights), device=options.device,
                    precision=options.precision, batch_size=options.crops)  # fmt: skip
        encoder = TextEncoder(text)
    side = int(np.sqrt(options.crops)) * text.patch
    frame = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    texts = encoder.text_embeddings(["a dog is running"])
    torch.backends.mha.set_fastpath_enabled(False)  # which the counter does not see through
    with FlopCounterMode(display=False) as counter:
        encoder.score_frames(frame, texts)
    torch.backends.mha.set_fastpath_enabled(True)
    crops = (side // text.patch) ** 2
    flops = counter.get_total_flops() / crops
    seconds = []
    for _ in range(options.rounds):
        began = time.perf_counter()
        encoder.score_frames(frame, texts)
        seconds.append(time.perf_counter() - began)
    rate = crops / statistics.median(seconds)
    peak = matmul_rate(options.device, getattr(torch, options.precision))
    return {
        "crops_per_second": round(rate, 2), "gflops_a_crop": round(flops / 1e9, 3),
        "share_of_matmul_rate": round(rate * flops / peak, 3), "matmul_gflops": round(peak / 1e9, 1),
        "datasets": {name: dataset(text, flops, options, *about) for name, about in DATASETS.items()},
        "assumed_gpu": f"{options.tflops:g} TFLOP/s at {options.utilisation:.0%}",
        "model": options.model, "precision": options.precision, "frame_stride": text.frame_stride,
        "machine": f"{options.device}; {os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
    }  # fmt: skip


def dataset(
    text: Text, flops: float, options: argparse.Namespace, videos: int, seconds: int, fps: int, size: tuple[int, int]
) -> dict[str, Any]:
    scored, cells = -(-seconds * fps // text.frame_stride), int(np.prod(grid(*size, text.patch)))
    offline, online = scored * cells, EPOCHS * CLIP * TOKENS
    hours = {way: videos * count * flops / (options.tflops * 1e12 * options.utilisation) / 3600
             for way, count in (("offline", offline), ("online", online))}  # fmt: skip
    return {
        "crops_a_video": {"offline": offline, "online": online}, "online_over_offline": round(online / offline, 1),
        "bytes_a_video": CAPTIONS * offline,
        "hours": {way: {f"{gpus} GPU": round(found / gpus, 1) for gpus in GPUS} for way, found in hours.items()},
    }  # fmt: skip


def matmul_rate(device: str, dtype: torch.dtype, side: int = 2048) -> float:
    """FLOP/s of a large matrix product."""
    a = torch.randn(side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(seconds)


if __name__ == "__main__":
    main()
