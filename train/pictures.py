"""Pictures for people: what a clip's scores and mask are, and how a loss went. Frames by numpy, charts by matplotlib.

Shape suffixes: T frames, T' time slices, H rows, W columns, C channels; h x w the token grid.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from schemas.atomic import write_bytes
from schemas.foreign_text import shown

Pixels = NDArray[np.uint8]
GAP = 4  # pixels between the pictures of a strip
HEAT = "inferno"  # evenly brighter from low to high, for the colour-blind, too
DPI = 100


def reconstruction_picture(
    clip_THWC: Pixels, hidden_Thw: NDArray[np.bool_], guess_THWC: Pixels, attention_Thw: NDArray[Any], *, size: int
) -> Pixels:
    """Rows: frames, what the mask leaves, the guess, what a patch attends to: uint8 [H', W', 3].

    One column a time slice, its first frame, enlarged by whole pixels to about `size`.
    """
    first = np.arange(len(hidden_Thw)) * (len(clip_THWC) // len(hidden_Thw))
    frames = clip_THWC[first]
    rows = [frames, hide(frames, hidden_Thw), guess_THWC[first],
            heat(frames, attention_Thw, low=0.0, high=float(attention_Thw.max()))]  # fmt: skip
    factor = max(size // clip_THWC.shape[1], 1)
    return np.concatenate([_beside(row.repeat(factor, 1).repeat(factor, 2)) for row in rows])[:-GAP]


def heat(frames_THWC: Pixels, scores_Thw: NDArray[Any], *, low: float, high: float, opacity: float = 0.6) -> Pixels:
    """Scores laid over grey frames, one colour a patch: uint8 [T, H, W, 3]."""
    unit = np.clip((scores_Thw.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
    colour = 255 * np.asarray(colormaps[HEAT](unit))[..., :3]
    grey = frames_THWC.astype(np.float64).mean(-1, keepdims=True)
    mixed = (1 - opacity) * grey + opacity * _enlarge(colour, frames_THWC)
    return np.asarray(np.round(mixed), np.uint8)


def hide(frames_THWC: Pixels, mask_Thw: NDArray[np.bool_], *, grey: int = 128) -> Pixels:
    """Frames with the hidden patches replaced by grey, a darker line around each: uint8 [T, H, W, 3]."""
    hidden = _enlarge(mask_Thw[..., None], frames_THWC)
    out = np.where(hidden, np.uint8(grey), frames_THWC)
    h, w = (frames_THWC.shape[axis] // mask_Thw.shape[axis] for axis in (1, 2))
    edge = np.zeros(frames_THWC.shape[1:3], bool)
    edge[::h], edge[:, ::w] = True, True
    return np.asarray(np.where(hidden & edge[None, :, :, None], np.uint8(grey - 30), out), np.uint8)


def loss_curve(
    series: Mapping[str, Sequence[tuple[float, float]]], *, title: str = "", width: int = 800, height: int = 420,
    x_name: str = "step",
) -> Pixels:  # fmt: skip
    """Lines through (x, y) points with axes and a legend: uint8 [height, width, 3]. Non-finite points are left out.

    Errors: ValueError when there is no point at all.
    """
    finite = {n: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for n, points in series.items()}
    points = [point for line in finite.values() for point in line]
    if not points:
        raise ValueError("there is no point to draw")
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    for name, line in finite.items():
        x, y = zip(*sorted(line), strict=True) if line else ((), ())
        axes.plot(x, y, label=shown(name), marker="o" if len(line) == 1 else "", markersize=4)
    axes.set(title=shown(title), xlabel=x_name)
    axes.grid(axis="y", alpha=0.4)
    if len(finite) > 1:
        axes.legend(frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(path: Path, image_HWC: Pixels) -> None:
    """Writes a picture atomically."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def _enlarge(grid_Thwc: NDArray[Any], frames_THWC: Pixels) -> NDArray[Any]:
    h, w = (frames_THWC.shape[axis] // grid_Thwc.shape[axis] for axis in (1, 2))
    return grid_Thwc.repeat(h, axis=1).repeat(w, axis=2)


def _beside(frames_THWC: Pixels) -> Pixels:
    """Frames in a row, on white, with a gap below."""
    padded = np.pad(frames_THWC, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    return np.asarray(np.concatenate(list(padded), axis=1)[:, :-GAP], np.uint8)
