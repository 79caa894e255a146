"""The inspector's pictures: posters and strips of frames, as bytes for the browser.

Shape suffixes: T frames of a clip, T' time slices, H rows, W columns, C channels; h x w the token grid.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from schemas.config import Experiment
from schemas.shards import ClipMeta
from tgmae.demo.clip_views import token_grid
from tgmae.inspector.drawn_clips import Clips, DrawnClip
from tgmae.inspector.known_objects import object_of
from train.data.augment import Crop, resize_crop
from train.data.reading import decode
from train.pictures import heat, hide

Pixels = NDArray[np.uint8]
POSTER = 256  # pixels of the longer side, at most
THROUGH = 0.3  # of a hidden patch, on posters
SHOWN = 192  # pixels of a clip's frame, at least about: smaller ones are enlarged by the trainer's own resizing


def jpeg(image_HWC: Pixels, quality: int = 88) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def shown_size(experiment: Experiment) -> int:
    """Pixels of a clip's frame on the page: a multiple of the token grid."""
    side = experiment.clip.size // experiment.model.patch
    return side * max(-(-SHOWN // side), 1)


def poster(meta: ClipMeta, mp4: bytes) -> Pixels:
    """The middle frame, whole: uint8 [H, W, 3]."""
    frame_HWC = decode(mp4, np.asarray([meta.frames // 2]), meta, meta.video_id)[0]
    scale = POSTER / max(frame_HWC.shape[:2])
    if scale >= 1:
        return frame_HWC
    size = max(round(frame_HWC.shape[1] * scale), 1), max(round(frame_HWC.shape[0] * scale), 1)
    return np.asarray(Image.fromarray(frame_HWC).resize(size, Image.Resampling.BILINEAR))


def slice_picture(clips: Clips, experiment: Experiment, row: int, drawn: DrawnClip, show: str,
                  truth: Path | None) -> Pixels:  # fmt: skip
    """The middle time slice of a clip under its score map (show = map) or its mask (mask): uint8 [H, W, 3].

    What is hidden shines through, for one wants to see what it is; where the truth is known, the object is outlined.
    """
    middle = len(drawn.hidden_THW) // 2
    meta, mp4 = clips.meta(row)
    number = drawn.frames_T[middle * experiment.model.tubelet]
    pixels = decode(mp4, np.asarray([number]), meta, meta.video_id)
    frame = resize_crop(pixels, drawn.crop, shown_size(experiment)).numpy()
    if show == "map" and drawn.scores_THW is not None:
        scores = drawn.scores_THW
        picture = heat(frame, scores[middle : middle + 1], low=float(scores.min()), high=float(scores.max()))[0]
    else:
        mixed = (1 - THROUGH) * hide(frame, drawn.hidden_THW[middle : middle + 1])[0] + THROUGH * frame[0]
        picture = np.asarray(np.round(mixed), np.uint8)
    object_THW = object_of(drawn, truth, token_grid(experiment))
    return picture if object_THW is None else outline(picture, object_THW[middle])


def outline(image_HWC: Pixels, inside_HW: NDArray[np.bool_]) -> Pixels:
    """A white line with a dark edge around the patches inside."""
    side = image_HWC.shape[0] // inside_HW.shape[0]
    large = np.pad(inside_HW.repeat(side, 0).repeat(side, 1), 1)
    core = large[1:-1, 1:-1]
    out = image_HWC.copy()
    for width, colour in ((4, 20), (2, 255)):
        inner = core.copy()
        for axis in (0, 1):
            for step in (-width, width):
                moved = np.roll(np.pad(core, width), step, axis)[width:-width, width:-width]
                inner &= moved
        out[core & ~inner] = colour
    return out


def strip(clips: Clips, experiment: Experiment, row: int, frames_T: NDArray[np.int64], crop: Crop) -> Pixels:
    """The frames side by side, cropped and resized as the trainer does: uint8 [H, T * W, 3]."""
    meta, mp4 = clips.meta(row)
    clip_THWC = resize_crop(decode(mp4, frames_T, meta, meta.video_id), crop, shown_size(experiment)).numpy()
    return np.concatenate(list(clip_THWC), axis=1)


def model_clip(clips: Clips, experiment: Experiment, row: int, drawn: DrawnClip) -> torch.Tensor:
    """What the model sees: uint8 [T, size, size, 3]."""
    meta, mp4 = clips.meta(row)
    return resize_crop(decode(mp4, drawn.frames_T, meta, meta.video_id), drawn.crop, experiment.clip.size)
