"""The pictures of the report: frames with caption, score map and mask; the loss curve."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from schemas.config import Experiment
from schemas.workspace import Workspace
from tgmae.demo.clip_views import View, guided_views, token_grid
from tgmae.demo.report import Picture
from train.data.augment import resize_crop
from train.data.reading import decode
from train.data.sampling import generator
from train.data.videos import open_videos
from train.masking.masks import make_mask
from train.pictures import loss_curve, mask_picture, save_png


def mask_pictures(experiment: Experiment, folder: Path, *, count: int) -> list[Picture]:
    """One picture for each of `count` videos of different classes where there are as many."""
    videos = open_videos(Workspace(Path(experiment.workspace)), experiment.guide_name)
    labels = videos.column("label")
    seen: dict[int, int] = {}
    ranked = sorted(range(len(videos)), key=lambda row: (_nth(seen, int(labels[row])), row))
    pictures = []
    for number, view in enumerate(guided_views(experiment, ranked[:count])):
        path = folder / f"{number}.png"
        save_png(path, _draw(experiment, view))
        label = f" ({view.meta.label_text})" if view.meta.label_text else ""
        caption = "".join(f": “{text}”" for text in view.captions[:1])
        said = f"{view.meta.video_id}{label}{caption}. Frames, scores, and what {experiment.mask.kind} at "
        pictures.append(Picture(f"{folder.name}/{path.name}", said + f"ratio {experiment.mask.ratio} leaves visible."))
    return pictures


def loss_picture(experiment: Experiment, folder: Path) -> list[Picture]:
    """The loss curve of the run; no picture when it ended before anything was logged."""
    log = Workspace(Path(experiment.workspace)).run(experiment.name) / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    names = [name for name in ("loss", "reconstruction", "contrastive") if any(name in row for row in rows)]
    if len(names) == 2:
        names = ["loss"]  # one part alone is the whole
    series = {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}
    if not series:
        return []
    save_png(folder / "loss.png", loss_curve(series, title=f"loss of {experiment.name}"))
    return [Picture("loss.png", "Loss of pretraining by step.")]


def _draw(experiment: Experiment, view: View) -> np.ndarray:
    pixels_THWC = decode(view.mp4, view.frames_T, view.meta, view.meta.video_id)
    clip_THWC = resize_crop(pixels_THWC, view.crop, experiment.clip.size).numpy()
    rng = generator(0, view.key, "mask")
    scores_THW = view.scores_CTHW[0]
    mask = experiment.mask
    hidden_THW = make_mask(mask.kind, ratio=mask.ratio, shape=token_grid(experiment), scores=scores_THW,
                           flow=view.flow_TSHW2, rng=rng, share=mask.text_share[1])  # fmt: skip
    return mask_picture(clip_THWC, scores_THW, hidden_THW, text="".join(view.captions[:1]))


def _nth(seen: dict[int, int], label: int) -> int:
    """How often a label has come before: sorting by it takes one video of each class first."""
    seen[label] = seen.get(label, -1) + 1
    return seen[label]
