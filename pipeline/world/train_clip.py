"""Trains the world's dual encoder, an `open_clip.CLIP` of half a million weights, and saves it as open_clip would.

    models/clip/open_clip_config.json, open_clip_model.safetensors, tokenizer.json, tokenizer_config.json

It is used on patches, so it learns on crops down to patch size: the loss asks that, among the crops of a batch, those
a phrase is compared with rank by how much of each is what the phrase names.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from pipeline.world.dataset import Frames
from pipeline.world.training_crops import Crops, cut_crops, roughen
from pipeline.world.vocabulary import Phrase, build_tokenizer, mumbled, phrases, save_tokenizer, vocabulary

CONTEXT = 32  # tokens; the longest training phrase has 19

CLOSE_UPS = (6, 8, 8, 9, 10, 12, 16, 16, 20, 24, 32)
VIEWS = (48, 64, 80, 96, 128, 128)
"""Sides of training crops in px. The two kinds are contrasted among themselves: against patches that are all red, no
picture of a red star would be red enough."""


def clip_config() -> dict[str, Any]:
    """An open_clip_config.json. The tokenizer lies in the same folder: for a local-dir: model open_clip looks there
    whatever `hf_tokenizer_name` holds, unless it is empty."""
    words = vocabulary()
    text = {
        "context_length": CONTEXT, "vocab_size": len(words), "hf_tokenizer_name": "world", "width": 96, "heads": 3,
        "layers": 2, "pool_type": "eos", "eos_id": words.index("</s>"), "pad_id": words.index("<pad>"),
    }  # fmt: skip
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 3}
    mean, std = [0.45, 0.42, 0.42], [0.22, 0.22, 0.22]
    return {
        "model_cfg": {"embed_dim": 64, "quick_gelu": False, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "squash"},
    }


def train_clip(frames: Frames, out: Path, *, steps: int, seed: int = 0) -> None:
    """Trains for `steps` batches and writes the folder `out`."""
    torch.manual_seed(seed)
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    config = clip_config()
    model = open_clip.CLIP(**config["model_cfg"]).train()
    tokenizer = build_tokenizer(adds_eos=True)
    optimizer, schedule = _optimizer(model, steps)
    began = time.monotonic()
    for step in range(1, steps + 1):
        said = list(phrases(rng)) + list(phrases(rng))
        texts = [mumbled(rng, phrase.text, 0.05) for phrase in said]
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt")
        text = model.encode_text(tokens.input_ids, normalize=True)
        scale = model.logit_scale.exp()
        losses = []
        for sides, count, each in ((CLOSE_UPS, 4, 112), (VIEWS, 3, 32)):
            groups = [_crops(frames, int(side), each, rng) for side in rng.choice(sides, count)]
            images = roughen(torch.cat([group.images for group in groups]), noise)
            image = model.encode_image(_normalised(images, config), normalize=True)
            losses.append(soft_contrastive_loss(scale * image @ text.T, _agreement(groups, said)))
        loss = losses[0] + 0.5 * losses[1]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % max(1, steps // 20) == 0:
            spent = time.monotonic() - began
            print(
                f"clip: step {step}/{steps}, close-ups {losses[0].item():.3f}, views {losses[1].item():.3f}, "
                f"scale {scale.item():.0f}, {spent:.0f} s, {spent / step * (steps - step):.0f} s left", flush=True
            )  # fmt: skip
    save_clip(model.eval(), config, out)


def soft_contrastive_loss(logits: torch.Tensor, agreement: torch.Tensor) -> torch.Tensor:
    """Cross entropy against shares of agreement, both ways. logits, agreement: [B, P], agreement >= 0.

    Logits that are the logarithm of agreement, give or take a constant, fit both ways at once, so the cosine comes to
    rank crops by coverage. The usual contrastive loss is the case of an identity matrix. Equal captions share their
    mass instead of being each other's negatives. Crops or phrases that agree with nothing are left out.
    """
    total = logits.new_zeros(())
    for dim in (0, 1):
        mass = agreement.sum(dim, keepdim=True)
        target = agreement / mass.clamp(min=1e-6)
        entropy = -torch.special.xlogy(target, target).sum(dim)  # taken off, so that 0 is a perfect fit
        cross = -(target * logits.log_softmax(dim)).sum(dim)
        counted = (mass > 1e-3).squeeze(dim).float()
        total = total + ((cross - entropy) * counted).sum() / counted.sum().clamp(min=1)
    return total / 2


def save_clip(model: open_clip.CLIP, config: dict[str, Any], out: Path) -> None:
    """The folder that `open_clip.create_model_and_transforms(f"local-dir:{out}")` and `get_tokenizer` both take."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, out / "open_clip_model.safetensors")
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_tokenizer(out, adds_eos=True)


def _crops(frames: Frames, side: int, count: int, rng: np.random.Generator) -> Crops:
    rows = np.sort(rng.choice(len(frames.pixels), count, replace=False))
    return cut_crops(frames, rows, side, 32, rng)


def _agreement(groups: list[Crops], said: list[Phrase]) -> torch.Tensor:
    return torch.cat([group.agreement(said) for group in groups])


def _normalised(images: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    preprocess = config["preprocess_cfg"]
    mean, std = (torch.tensor(preprocess[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


def _optimizer(
    model: torch.nn.Module, steps: int, peak: float = 2e-3
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with a linear warm-up of 5 % and a cosine to zero; gains, biases and the logit scale do not decay."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak)
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
