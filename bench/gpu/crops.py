"""What scoring costs: crops through CLIP's ViT-B/32 one by one, beside one dense pass of the frame. Random weights."""

from __future__ import annotations

from typing import Any

import torch

from bench.gpu.card import Asked, Keep, median_seconds, share

NEEDS = ("transformers",)
SECONDS = 40
GFLOPS_A_CROP = 8.823  # bench/results/score_cost.json
PATCHES = 14  # of a frame of 224 pixels, along a side


def measure(asked: Asked, keep: Keep) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPVisionConfig(**(tiny if asked.tiny else {}))  # the default is ViT-B/32
    dtype = torch.bfloat16 if asked.device == "cuda" else torch.float32
    model = CLIPVisionModelWithProjection(config).to(asked.device, dtype).eval()
    found: dict[str, Any] = {"model": "ViT-B/32, random weights", "dtype": str(dtype).removeprefix("torch.")}

    def rate(count: int, side: int) -> float:
        pixels = torch.rand(count, 3, side, side, device=asked.device, dtype=dtype)
        with torch.inference_mode():
            seconds = median_seconds(lambda: model(pixels, interpolate_pos_encoding=side != config.image_size),
                                     asked.device, rounds=2 if asked.tiny else 10)  # fmt: skip
        return count / seconds

    for batch in (4,) if asked.tiny else (256, 1024, 4096):
        crops = rate(batch, config.image_size)
        found[f"batch {batch}"] = {
            "crops_per_second": round(crops), "of_peak": share(crops * GFLOPS_A_CROP * 1e9, asked.device),
            "frames_per_second": round(crops / PATCHES**2, 2),
        }  # fmt: skip
        keep(found)
    found["dense_frames_per_second"] = round(rate(2 if asked.tiny else 128, PATCHES * config.patch_size), 1)
    keep(found)
