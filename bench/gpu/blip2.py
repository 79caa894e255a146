"""Captions a second of BLIP-2 with OPT-2.7b at its real size, with random weights made on the device."""

from __future__ import annotations

from typing import Any

import torch

from bench.gpu.card import Asked, Keep, median_seconds

NEEDS = ("transformers",)
SECONDS = 60
WORDS = 16  # tokens of a caption


def measure(asked: Asked, keep: Keep) -> None:
    model = made(asked)
    config, found = model.config, {"model": "BLIP-2 OPT-2.7b, random weights", "tokens": WORDS, "batches": {}}
    found["parameters"] = sum(each.numel() for each in model.parameters())
    side = config.vision_config.image_size
    for batch in (2,) if asked.tiny else (8, 32, 96):
        pixels = torch.rand(batch, 3, side, side, device=asked.device, dtype=model.dtype)
        prompt = [config.image_token_index] * config.num_query_tokens + [config.text_config.bos_token_id]
        words = torch.tensor([prompt] * batch, device=asked.device)

        def caption(pixels: torch.Tensor = pixels, words: torch.Tensor = words) -> Any:
            return model.generate(pixel_values=pixels, input_ids=words, attention_mask=torch.ones_like(words),
                                  min_new_tokens=WORDS, max_new_tokens=WORDS, do_sample=False)  # fmt: skip

        seconds = median_seconds(caption, asked.device, rounds=1 if asked.tiny else 3, warm=1)
        found["batches"][str(batch)] = {"captions_per_second": round(batch / seconds, 2)}
        keep(found)


def made(asked: Asked) -> Any:
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    opt: dict[str, Any] = {
        "model_type": "opt", "hidden_size": 2560, "word_embed_proj_dim": 2560, "num_hidden_layers": 32,
        "num_attention_heads": 32, "ffn_dim": 10240, "vocab_size": 50304, "max_position_embeddings": 2048,
    }  # fmt: skip
    sizes: dict[str, Any] = {"text_config": opt, "image_token_index": 50265}  # the rest by default
    if asked.tiny:
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        opt |= {"hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "ffn_dim": 32, "vocab_size": 64}  # fmt: skip
        sizes |= {"vision_config": {**small, "image_size": 28}, "qformer_config": {**small, "encoder_hidden_size": 16,
                  "vocab_size": 64}, "num_query_tokens": 4, "image_token_index": 63}  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if asked.device == "cuda" else torch.float32)
    try:
        with torch.device(asked.device):
            return Blip2ForConditionalGeneration(Blip2Config(**sizes)).eval()
    finally:
        torch.set_default_dtype(before)
