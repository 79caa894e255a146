"""Trains the world's captioner, a transformers BLIP-2 (ViT, Q-Former, OPT) of about a million weights.

    models/blip2/   what `Blip2ForConditionalGeneration.from_pretrained` and `Blip2Processor.from_pretrained` read

It is taught to say "a red star" of a frame, and to go on with "a red star" after "a photo of".
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

from pipeline.world.dataset import COLOUR_NAMES, SHAPE_NAMES, Frames, batches
from pipeline.world.training_crops import roughen
from pipeline.world.vocabulary import IMAGE_TOKEN, build_tokenizer, vocabulary

SIDE = 64  # px of the encoder's input
QUERIES = 8
PROMPT = "a photo of"
LENGTH = QUERIES + 1 + 3 + 3 + 1  # queries, <s>, prompt, "a red star", </s>


def blip2_config() -> Blip2Config:
    """All the parts of the real model, each two or three layers deep."""
    words = vocabulary()
    ids = {name: words.index(token) for name, token in
           (("pad_token_id", "<pad>"), ("bos_token_id", "<s>"), ("eos_token_id", "</s>"))}  # fmt: skip
    width, heads = 96, 3
    # The classes' own initializer_range is for widths of a thousand, or for weights about to be loaded (1e-10). At 0.02
    # a tower this narrow stays at chance with the shapes for thousands of steps; 0.1 is one over the root of its width.
    spread = 0.1
    vision = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 4,
              "num_attention_heads": heads, "image_size": SIDE, "patch_size": 8,
              "initializer_range": spread}  # fmt: skip
    qformer = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2,
               "num_attention_heads": heads, "encoder_hidden_size": width, "cross_attention_frequency": 1,
               "vocab_size": len(words), "initializer_range": spread,
               "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
               "pad_token_id": ids["pad_token_id"]}  # fmt: skip
    text = {"model_type": "opt", "vocab_size": len(words), "hidden_size": width, "word_embed_proj_dim": width,
            "ffn_dim": 2 * width, "num_hidden_layers": 2, "num_attention_heads": heads, "max_position_embeddings": 64,
            "dropout": 0.0, "attention_dropout": 0.0, "init_std": spread, **ids}  # fmt: skip
    return Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=QUERIES,
                       image_token_index=words.index(IMAGE_TOKEN))  # fmt: skip


def blip2_processor() -> Blip2Processor:
    mean, std = [0.45, 0.42, 0.42], [0.22, 0.22, 0.22]
    image = BlipImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=mean, image_std=std)
    return Blip2Processor(image, build_tokenizer(adds_eos=False), num_query_tokens=QUERIES)


@dataclass(frozen=True)
class Lesson:
    """What is shown at a moment of the training, and which parts learn.

    zooms: sides of the crops about the named object, in sides of the frame; backdrop: how far what is not the named
    object shows, 0 (flat grey) to 1; captions: whether the whole model learns, or the vision tower by itself.
    """

    zooms: tuple[float, float]
    backdrop: float
    captions: bool


def lesson(progress: float) -> Lesson:
    """The lesson at `progress`, 0 to 1: as in BLIP-2's two stages, first the eye, then the tongue.

    Shown whole frames from the start, a tower this small learns the colours and stays at chance with the shapes. So
    shapes come first large and alone, then with what is around them, then as small as they are in a whole frame.
    """
    around = min(max((progress - 0.15) / 0.15, 0.0), 1.0)
    away = min(max((progress - 0.25) / 0.25, 0.0), 1.0)
    return Lesson((0.4 + 0.5 * away, 0.55 + 0.55 * away), around, progress > 0.5)


def train_blip2(frames: Frames, out: Path, *, steps: int, batch: int = 48, seed: int = 0) -> None:
    """Trains for `steps` batches and writes the folder `out`."""
    torch.manual_seed(seed)
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    processor, model = blip2_processor(), Blip2ForConditionalGeneration(blip2_config()).train()
    with torch.no_grad():  # all zeros at first, the queries would stay equal to one another for good
        model.query_tokens.normal_(0, 0.5)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in
                 (processor.image_processor.image_mean, processor.image_processor.image_std))  # fmt: skip
    # What the vision tower learns by: a linear reading of its tokens, thrown away afterwards.
    readout = torch.nn.Linear(model.config.vision_config.hidden_size, len(COLOUR_NAMES) + len(SHAPE_NAMES))
    colour, shape = torch.from_numpy(frames.colour[:, 0]), torch.from_numpy(frames.shape[:, 0])
    centres = _centres(frames.ids)
    optimizer = torch.optim.AdamW([*model.parameters(), *readout.parameters()], lr=1.0, weight_decay=0.02)
    began, order = time.monotonic(), batches(len(frames.pixels), batch, rng)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        rows, now = next(order), lesson(step / steps)
        shown = _on_backdrop(frames.pixels[rows], frames.ids[rows] == 1, now.backdrop)
        images = (roughen(_cropped(shown, centres[rows], now.zooms, rng), noise) - mean) / std
        caption = torch.zeros(())
        if now.captions:
            ids, attended, labels = _targets(processor, [frames.captions[row] for row in rows], rng)
            said = model(pixel_values=images, input_ids=ids, attention_mask=attended, labels=labels)
            caption, seen = said.loss, said.vision_outputs.last_hidden_state
        else:
            seen = model.vision_model(images).last_hidden_state
        read = readout(seen.mean(dim=1)).split(len(COLOUR_NAMES), dim=1)
        aside = F.cross_entropy(read[0], colour[rows]) + F.cross_entropy(read[1], shape[rows])
        optimizer.zero_grad()
        (caption + 0.5 * aside).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % max(1, steps // 20) == 0:
            spent = time.monotonic() - began
            print(
                f"blip2: step {step}/{steps}, caption {caption.item():.3f}, readout {aside.item():.3f}, "
                f"{spent:.0f} s, {spent / step * (steps - step):.0f} s left", flush=True
            )  # fmt: skip
    save_blip2(model.eval(), processor, out)


def save_blip2(model: Blip2ForConditionalGeneration, processor: Blip2Processor, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)


def _targets(
    processor: Blip2Processor, captions: list[str], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> input ids, attention mask, labels, each int64 [B, LENGTH]: <image> x 8, <s>, caption, </s>, padding.

    A third of the captions follow the prompt, whose own words are no target: without one, the answer is the caption.
    """
    tokenizer = processor.tokenizer
    image, pad = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), tokenizer.pad_token_id
    ids = torch.full((len(captions), LENGTH), pad)
    labels = torch.full_like(ids, -100)
    for row, caption in enumerate(captions):
        given = tokenizer(PROMPT if rng.random() < 0.35 else "").input_ids
        answer = [*tokenizer(caption, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        start, end = QUERIES + len(given), QUERIES + len(given) + len(answer)
        ids[row, :end] = torch.tensor([image] * QUERIES + given + answer)
        labels[row, start:end] = torch.tensor(answer)
    return ids, (ids != pad).long(), labels


def _centres(ids: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W] -> float32 [N, 2]: x and y of the middle of the named object, -1 to 1 over the frame."""
    named = torch.from_numpy(ids == 1).float()
    mass = named.sum(dim=(1, 2)).clamp(min=1)
    height, width = ids.shape[1:]
    x = (named.sum(dim=1) @ torch.linspace(-1, 1, width)) / mass
    y = (named.sum(dim=2) @ torch.linspace(-1, 1, height)) / mass
    return torch.stack([x, y], dim=1)


def _on_backdrop(pixels: np.ndarray, named: np.ndarray, backdrop: float) -> torch.Tensor:
    """uint8 [B, H, W, 3], bool [B, H, W] -> float32 [B, 3, H, W], 0 to 1: all but the named object faded to grey."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    if backdrop == 1:
        return images
    grey = torch.lerp(torch.tensor(0.45), images, backdrop)
    return torch.where(torch.from_numpy(named)[:, None], images, grey)


def _cropped(
    images: torch.Tensor, centres: torch.Tensor, zooms: tuple[float, float], rng: np.random.Generator
) -> torch.Tensor:
    """float32 [B, 3, H, W], [B, 2] -> float32 [B, 3, SIDE, SIDE]: crops about the named object, half mirrored."""
    count = len(images)
    zoom = torch.from_numpy(rng.uniform(*zooms, count)).float()
    room = (1 - zoom).abs()[:, None]  # how far the crop's middle can go without leaving the frame
    jitter = torch.from_numpy(rng.uniform(-0.15, 0.15, (count, 2))).float()
    middle = torch.clamp(centres + jitter, -room, room)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0] = zoom * torch.from_numpy(rng.choice([-1.0, 1.0], count)).float()
    affine[:, 1, 1] = zoom
    affine[:, :, 2] = middle
    # Sampled twice as densely as needed and averaged, which keeps fine textures from aliasing.
    grid = F.affine_grid(affine, [count, 3, 2 * SIDE, 2 * SIDE], align_corners=False)
    dense = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(dense, 2)


def _rate(step: int, steps: int, peak: float = 1e-3) -> float:
    """Learning rate: a short linear warm-up, level for the first half, then a cosine to zero."""
    level = min(1.0, step / max(1, steps // 40))
    return peak * level * 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * step / steps - 1)))
