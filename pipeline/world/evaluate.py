"""Measures the shipped models on videos that they were not trained on.

    python -m pipeline.world.evaluate [--models FOLDER] [--videos N]

The dual encoder is used the paper's way: every cell of a frame is cut out, resized to the encoder's input, embedded
and compared with the caption. With k the number of cells that the named object covers at least half of, the k best
cells are compared with those: intersection over union, averaged over frames. Captions are greedy.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from pipeline.world.dataset import HELD_OUT_SEED, Frames, draw_frames
from pipeline.world.scene import COLOURS
from pipeline.world.shapes import SHAPES

MODELS = Path(__file__).resolve().parent / "models"


def cells(array: np.ndarray, cell: int) -> np.ndarray:
    """[N, H, W, ...] -> [N, H/cell, W/cell, cell, cell, ...]"""
    count, height, width = array.shape[:3]
    split: np.ndarray = array.reshape(count, height // cell, cell, width // cell, cell, *array.shape[3:])
    return split.swapaxes(2, 3)


def covered_cells(ids: np.ndarray, cell: int) -> np.ndarray:
    """uint8 [N, H, W] -> bool [N, cells]: the named object covers at least half."""
    covered: np.ndarray = cells(ids == 1, cell).mean(axis=(3, 4)) >= 0.5
    return covered.reshape(len(ids), -1)


class PatchScorer:
    """Scores cells of frames with an open_clip folder; nothing in it is particular to the world."""

    def __init__(self, folder: Path) -> None:
        name = f"local-dir:{folder}"
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(name)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)
        config = self.model.visual.preprocess_cfg
        self.mean, self.std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))

    @torch.inference_mode()
    def embedded(self, pixels: np.ndarray, cell: int) -> torch.Tensor:
        """uint8 [N, H, W, 3] -> float32 [N, cells, D] of length 1."""
        cut = torch.from_numpy(cells(pixels, cell).reshape(-1, cell, cell, 3)).permute(0, 3, 1, 2).float() / 255
        side = self.model.visual.image_size[0]
        cut = F.interpolate(cut, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
        parts = [self.model.encode_image(part, normalize=True) for part in ((cut - self.mean) / self.std).split(2048)]
        return torch.cat(parts).view(len(pixels), -1, parts[0].shape[1])

    @torch.inference_mode()
    def scores(self, image: torch.Tensor, captions: list[str]) -> np.ndarray:
        """Of embedded frames, N captions -> float32 [N, cells]: cosines."""
        text = self.model.encode_text(self.tokenizer(captions), normalize=True)
        cosines: np.ndarray = torch.einsum("ncd,nd->nc", image, text).numpy()
        return cosines


def top_k_iou(scores: np.ndarray, covered: np.ndarray) -> float:
    """scores float [N, cells], covered bool [N, cells] -> mean over frames with any covered cell."""
    values = []
    for score, truth in zip(scores, covered, strict=True):
        k = int(truth.sum())
        if k:
            common = int(truth[np.argsort(-score, kind="stable")[:k]].sum())
            values.append(common / (2 * k - common))
    return float(np.mean(values))


def measure_clip(folder: Path, frames: Frames) -> dict[str, float]:
    """iou_8px, iou_16px: with the caption ("a red star"); _sentence: with the caption and the motion in a sentence;
    _motion: with the motion alone, which names no object; _random: with scores drawn by chance."""
    scorer = PatchScorer(folder)
    rng = np.random.default_rng(0)
    said = list(zip(frames.captions, frames.motions, strict=True))
    sentences = [f"a video of {caption} that is {motion}" for caption, motion in said]
    covered = {cell: covered_cells(frames.ids, cell) for cell in (8, 16)}
    embedded = {cell: scorer.embedded(frames.pixels, cell) for cell in (8, 16)}

    def iou(texts: list[str], cell: int) -> float:
        return top_k_iou(scorer.scores(embedded[cell], texts), covered[cell])

    return {
        "iou_8px": iou(frames.captions, 8), "iou_16px": iou(frames.captions, 16),
        "iou_8px_sentence": iou(sentences, 8), "iou_8px_motion": iou(frames.motions, 8),
        "iou_8px_random": top_k_iou(rng.random(covered[8].shape), covered[8]),
        "iou_16px_random": top_k_iou(rng.random(covered[16].shape), covered[16]),
    }  # fmt: skip


def caption_frames(folder: Path, pixels: np.ndarray, prompt: str | None = None, batch: int = 64) -> list[str]:
    """uint8 [N, H, W, 3] -> N greedy captions (without the prompt)."""
    processor = Blip2Processor.from_pretrained(folder)
    model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    captions = []
    for start in range(0, len(pixels), batch):
        images = [Image.fromarray(frame) for frame in pixels[start : start + batch]]
        text = None if prompt is None else [prompt] * len(images)
        inputs = processor(images=images, text=text, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False, num_beams=1)
        if prompt is not None:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        captions += [caption.strip() for caption in processor.batch_decode(tokens, skip_special_tokens=True)]
    return captions


def measure_blip2(folder: Path, frames: Frames) -> dict[str, float]:
    said = [set(caption.split()) for caption in caption_frames(folder, frames.pixels)]
    truth = [caption.split() for caption in frames.captions]  # "a", colour, shape

    def share(position: int, names: set[str]) -> float:
        return float(np.mean([words & names == {true[position]} for words, true in zip(said, truth, strict=True)]))

    return {"caption_colour": share(1, set(COLOURS)), "caption_shape": share(2, set(SHAPES))}


def measure(models: Path, videos: int = 96) -> dict[str, Any]:
    """All numbers of the models in the folder, on `videos` held-out videos, four frames of each."""
    frames = draw_frames(HELD_OUT_SEED, videos, per_video=4)
    found: dict[str, Any] = {"held_out_videos": videos, **measure_clip(models / "clip", frames)}
    found |= measure_blip2(models / "blip2", frames)
    found["megabytes"] = sum(path.stat().st_size for path in models.rglob("*") if path.is_file()) / 1e6
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--videos", type=int, default=96)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.models, arguments.videos)))


if __name__ == "__main__":
    main()
