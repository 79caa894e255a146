"""Do masks from stored score maps hide what the paper's online method hides, and what does it depend on?

    python bench/mask_fidelity.py [--data FOLDER] [--model NAME --pretrained TAG] [--device cuda] [--threads 2]

Online: the very clip that the trainer sees (its frames, cropped, resized and flipped) is cut into patches, each is
scored by the encoder in float32, frames of a tubelet are averaged, the top k of a slice are hidden. Stored: maps of
whole frames, in bytes, resampled by the trainer's own code. Both score by the same text. IoU of the hidden patches,
means over slices, clips and videos; `random` is what two random masks have. Everything but what a row names is at its
default.

FOLDER holds class folders of videos, whose names are the texts; without it, videos of the embedded world are drawn,
whose texts name an object. Without --model the embedded encoder scores. Prints JSON.

`trainer`: random clips as VideoMAE draws them. `online_itself`: the online masks of views that differ by a few pixels,
the most that can be asked for. `why`: centred views that are not random, maps of every frame, unstored,
so that each part of the difference stands alone: "aligned" patches are cells of the grid; "half a patch off" lie
between them; "scale s" are cut from a square of s times the short side, so that a patch covers s * short / size * patch
pixels of the stored frame.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.guides.encoder import TextEncoder
from pipeline.world.write import write_world
from schemas.config import Experiment, Text
from schemas.shards import ClipMeta, quantize
from schemas.workspace import Workspace
from tgmae.demo.demo import demo_experiment
from tgmae.run import run
from train.data.augment import Crop, clip_scores, multi_scale_crop, resize_crop
from train.data.reading import decode, read_clip
from train.data.sampling import generator, random_frames
from train.data.videos import open_videos
from train.masking.masks import hidden_per_slice, top_k

Array = np.ndarray[Any, np.dtype[Any]]
TUBELET = 2
RATIO, RATIOS = 0.6, (0.2, 0.4, 0.75, 0.9)
GEOMETRY = {  # short side of the stored clips, of the view; patch, pixels; scales of the trainer's crops
    "world": (96, 80, 8, (1.0, 0.875, 0.75, 0.66)),
    "videomae": (256, 224, 16, (1.0, 0.875, 0.75, 0.66)),
}


@dataclass(frozen=True)
class Clip:
    """Frames of a video as the trainer draws them, and the view of them that it crops."""

    video: Video
    frames_T: Array
    crop: Crop


@dataclass
class Video:
    meta: ClipMeta
    mp4: bytes
    text: str
    pixels: dict[int, Array] = field(default_factory=dict)  # decoded frames, by number
    maps: dict[tuple[str, int], Array] = field(default_factory=dict)  # (variant, frame) -> [gh, gw]

    def frames(self, numbers: Iterable[int]) -> Array:
        missing = sorted(set(numbers) - self.pixels.keys())
        if missing:
            found = decode(self.mp4, np.asarray(missing), self.meta, self.meta.video_id)
            self.pixels |= dict(zip(missing, found, strict=True))
        return np.stack([self.pixels[number] for number in numbers])


class Scorer:
    """An encoder with its options; what it scored is kept, and what that cost."""

    def __init__(self, name: str, text: Text) -> None:
        self.name, self.options, self._encoder = name, text, TextEncoder(text)
        self._text: dict[str, Array] = {}
        self.seconds: list[float] = []  # of a frame
        self.cells = 0  # of a frame

    def score(self, frames_FHW3: Array, text: str) -> Array:
        if text not in self._text:
            self._text[text] = self._encoder.text_embeddings([text])
        began = time.perf_counter()
        scores_FHW = self._encoder.score_frames(frames_FHW3, self._text[text])[0]
        self.seconds.append((time.perf_counter() - began) / len(frames_FHW3))
        self.cells = scores_FHW[0].size
        return scores_FHW

    def stored(self, video: Video, numbers: list[int]) -> None:
        missing = [number for number in numbers if (self.name, number) not in video.maps]
        if missing:
            maps = self.score(video.frames(missing), video.text)
            video.maps |= {(self.name, number): each for number, each in zip(missing, maps, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="class folders of videos")
    parser.add_argument("--model", help="open_clip architecture or local-dir:FOLDER; default: the embedded one")
    parser.add_argument("--pretrained", default="openai")
    parser.add_argument("--videos", type=int, default=12, help="at most")
    parser.add_argument("--draws", type=int, default=3, help="random clips of a video")
    parser.add_argument("--frames", type=int, default=8, help="of a clip")
    parser.add_argument("--stride", type=int, default=4, help="frames from one of a clip to the next")
    parser.add_argument("--geometry", choices=GEOMETRY, help="default: videomae with --data, else world")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder)), indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    geometry = options.geometry or ("world" if options.data is None else "videomae")
    short, size, patch, scales = GEOMETRY[geometry]
    videos, experiment = read_videos(options, folder, short, patch)
    text = experiment.text
    grid = (options.frames // TUBELET, size // patch, size // patch)
    clips = [random_clip(video, draw, options, size, scales) for video in videos for draw in range(options.draws)]

    def of(**changes: Any) -> Text:
        return Text.model_validate({**text.model_dump(), **changes})

    online = Scorer("online", of(grid_stride=0))
    truth = [online_scores(online, clip, size, grid) for clip in clips]

    def row(name: str, ratio: float = RATIO, *, bytes_: bool = True, **changes: Any) -> dict[str, Any]:
        changed = of(**changes)
        key = json.dumps({**changes, "frame_stride": 0}, sort_keys=True)  # maps are the same at any stride
        scorer = scorers.setdefault(key, Scorer(key, changed))
        hidden = hidden_per_slice(ratio, grid[1] * grid[2])
        found = [iou(top_k(a, hidden), top_k(stored_scores(scorer, clip, grid, changed.frame_stride, bytes_), hidden))
                 for a, clip in zip(truth, clips, strict=True)]  # fmt: skip
        cells, seconds = scorer.cells, statistics.median(scorer.seconds)
        return {
            "iou": round(float(np.mean(found)), 4), "worst_clip": round(float(np.min(found)), 4),
            "cells_a_frame": cells, "bytes_a_scored_frame": cells, "ms_a_scored_frame": round(1000 * seconds, 2),
            "relative_cost": round(seconds / changed.frame_stride / cost, 2),
        }  # fmt: skip

    scorers: dict[str, Scorer] = {}
    paper = Scorer("paper", text)
    for video in videos:
        paper.score(video.frames([0, 1]), video.text)
    cost = statistics.median(paper.seconds) / text.frame_stride  # of a frame of the video
    trainer: dict[str, Any] = {"default": row("default")}
    for ratio in RATIOS:
        trainer[f"ratio {ratio}"] = {**row("ratio", ratio), "random": chance(ratio)}
    for stride in (1, 2, 4, 8):
        trainer[f"frame_stride {stride}"] = row("stride", frame_stride=stride)
    for pitch in (patch // 2, patch // 4):
        trainer[f"grid_stride {pitch}"] = row("grid", grid_stride=pitch)
    trainer[f"grid_stride {patch // 2}, every frame"] = row("grid", grid_stride=patch // 2, frame_stride=1)
    trainer["maps as floats"] = row("floats", bytes_=False)
    trainer["bfloat16"] = row("bfloat16", precision="bfloat16")
    trainer["crops, half the size"] = row("half", crop_size=online._encoder.cells.input_size // 2)
    for name, changes in {
        "dense, value (MaskCLIP)": {}, "dense, original": {"attention": "original"},
        "dense, query-query+key-key (SCLIP)": {"attention": "query-query+key-key"},
        "dense, query-query, attention alone (ClearCLIP)": {"attention": "query-query", "last_block": "attention"},
    }.items():  # fmt: skip
        trainer[name] = row(name, method="dense", **changes)
    return {
        "trainer": trainer, "random": chance(RATIO),
        "online_itself": itself(videos, online, size, grid, options),
        "why": why(videos, online, text, short, size, patch, options),
        "geometry": f"short side {short}, views of {size}, patches of {patch}, crops of {scales} of the short side",
        "default": f"grid_stride {text.pitch}, frame_stride {text.frame_stride}, crops, float32, ratio {RATIO}",
        "clips": f"{len(clips)} of {options.frames} frames, stride {options.stride}",
        "data": f"{len(videos)} videos of {options.data.name if options.data else 'the embedded world'}",
        "model": options.model or "embedded world model", "torch": torch.__version__,
        "machine": f"{options.device}; {os.cpu_count()} cores, {options.threads} threads, {platform.machine()}",
    }  # fmt: skip


def itself(
    videos: list[Video], online: Scorer, size: int, grid: tuple[int, int, int], options: argparse.Namespace
) -> dict[str, float]:
    """IoU of the online masks of two views of one size, one of which lies some pixels to the right: what a mask is
    worth that is right but for so much."""
    hidden, found = hidden_per_slice(RATIO, grid[1] * grid[2]), {}
    for shift in (1, 2, 4):
        each = []
        for video in videos:
            frames_T = np.minimum(np.arange(options.frames) * options.stride, video.meta.frames - 1)
            crops = [Crop(left, 0, size, size, video.meta.width, video.meta.height) for left in (0, shift)]
            masks = [top_k(online_scores(online, Clip(video, frames_T, crop), size, grid), hidden) for crop in crops]
            each.append(iou(*masks))
        found[f"{shift} px off"] = round(float(np.mean(each)), 4)
    return found


def why(
    videos: list[Video], online: Scorer, text: Text, short: int, size: int, patch: int, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """IoU at ratio 0.6 of centred views, by what differs; next to a grid of half the pitch."""
    grids = {f"grid_stride {pitch}": Scorer(f"why {pitch}", text.model_copy(update={"grid_stride": pitch}))
             for pitch in (patch, patch // 2, patch // 4)}  # fmt: skip
    offsets = {"aligned": 0, "half a patch off": patch // 2}
    views: dict[str, Callable[[int, int], Crop]] = {
        name: lambda width, height, start=start: Crop(start, start, size, size, width, height)
        for name, start in offsets.items()
    }
    for scale in sorted({size / short, *GEOMETRY["videomae"][3]}, reverse=True):
        side = round(short * scale)
        views[f"scale {scale:.3g}: patches of {side / size * patch:.3g} px"] = partial(centred, scale)
    grid = (options.frames // TUBELET, size // patch, size // patch)
    hidden = hidden_per_slice(RATIO, grid[1] * grid[2])
    found: dict[str, dict[str, float]] = {}
    for name, view in views.items():
        each: dict[str, list[float]] = {pitch: [] for pitch in grids}
        for video in videos:
            frames_T = np.minimum(np.arange(options.frames) * options.stride, video.meta.frames - 1)
            clip = Clip(video, frames_T, view(video.meta.width, video.meta.height))
            truth = top_k(online_scores(online, clip, size, grid), hidden)
            for pitch, scorer in grids.items():
                each[pitch].append(iou(truth, top_k(stored_scores(scorer, clip, grid, 1, False), hidden)))
        found[name] = {pitch: round(float(np.mean(values)), 4) for pitch, values in each.items()}
    return found


def centred(scale: float, width: int, height: int) -> Crop:
    """A square of `scale` times the short side, which is that of the stored video: small ones are not enlarged."""
    side = round(min(width, height) * scale)
    return Crop((width - side) // 2, (height - side) // 2, side, side, width, height)


def read_videos(options: argparse.Namespace, folder: Path, short: int, patch: int) -> tuple[list[Video], Experiment]:
    data = options.data or folder / "world"
    if options.data is None:
        write_world(
            data, videos=options.videos, size=short, frames=64, test_share=0.99
        )  # the model has seen no test video
    overrides = [f"shard.short_side={short}", f"text.patch={patch}", f"text.device={options.device}",
                 "max_failures=100%"]  # fmt: skip
    if options.model:
        overrides += [f"text.model={options.model}", f"text.pretrained={options.pretrained}"]
    experiment = demo_experiment(folder, data, overrides)
    run(experiment, partial(print, file=sys.stderr), only=("index", "shard"))
    texts = {}
    if options.data is None:
        plan = json.loads((data / "truth" / "world.json").read_bytes())["videos"]
        texts = {entry["path"]: entry["caption"] for entry in plan}
    index = open_videos(Workspace(Path(experiment.workspace)), None)
    videos = []
    for number in np.unique(np.linspace(0, len(index) - 1, options.videos).round().astype(int)).tolist():
        meta, mp4 = read_clip(index.clip_place(number))
        text = texts.get(str(Path(meta.video_id).with_suffix("")), meta.label_text or Path(meta.video_id).stem)
        videos.append(Video(meta, mp4, text))
    return videos, experiment


def random_clip(video: Video, draw: int, options: argparse.Namespace, size: int, scales: tuple[float, ...]) -> Clip:
    rng = generator(0, draw, video.meta.video_id)
    frames_T = random_frames(video.meta.frames, frames=options.frames, stride=options.stride, rng=rng)
    flip = bool(rng.integers(2))
    crop = multi_scale_crop(video.meta.width, video.meta.height, size=size, scales=scales, rng=rng, flip=flip)
    return Clip(video, frames_T, crop)


def online_scores(scorer: Scorer, clip: Clip, size: int, grid: tuple[int, int, int]) -> Array:
    """[T', h, w]: as the paper does it, on the pixels that the trainer would see."""
    pixels = resize_crop(clip.video.frames(clip.frames_T.tolist()), clip.crop, size).numpy()
    maps_THW = scorer.score(pixels, clip.video.text)
    assert maps_THW.shape[1:] == grid[1:]
    return maps_THW.reshape(grid[0], -1, *grid[1:]).mean(1)


def stored_scores(scorer: Scorer, clip: Clip, grid: tuple[int, int, int], stride: int, bytes_: bool) -> Array:
    """[T', h, w]: by the trainer's own code, from maps of every `stride`-th frame (of those that the clip needs)."""
    count = -(-clip.video.meta.frames // stride)
    numbers = sorted({min(round(frame / stride), count - 1) * stride for frame in clip.frames_T.tolist()})
    scorer.stored(clip.video, numbers)
    maps = [clip.video.maps[scorer.name, number] for number in numbers]
    stored = np.stack(maps)[None]
    if bytes_:
        stored = quantize(stored)[0]
    whole = np.zeros((count, *stored.shape[2:]), stored.dtype)
    whole[[number // stride for number in numbers]] = stored[0]
    points = scorer.options.pitch < scorer.options.patch
    return clip_scores(whole, clip.frames_T, clip.crop, frame_stride=stride, grid=grid, points=points)


def iou(one: Array, other: Array) -> float:
    """Mean over slices."""
    both, either = (one & other).sum((1, 2)), (one | other).sum((1, 2))
    return float((both / either).mean())


def chance(ratio: float) -> float:
    return round(ratio / (2 - ratio), 4)


if __name__ == "__main__":
    main()
