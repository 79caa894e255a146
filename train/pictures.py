"""Pictures for people: what a clip's scores and mask are, and how a loss went. numpy and pillow alone.

Shape suffixes: T frames, T' time slices, H rows, W columns, C channels; h x w the token grid.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from schemas.atomic import write_bytes
from schemas.foreign import shown

Pixels = NDArray[np.uint8]
GAP = 4  # pixels between the pictures of a strip
# From dark violet over red to pale yellow, evenly brighter; between these colours linearly.
HEAT = np.array([[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]], np.float64)
LINES = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")


def mask_picture(
    clip_THWC: Pixels,
    scores_Thw: NDArray[Any] | None = None,
    mask_Thw: NDArray[np.bool_] | None = None,
    *,
    columns: int = 8,
    text: str = "",
) -> Pixels:
    """Rows: the frames, under them their scores as heat, under them what the mask leaves: uint8 [H', W', 3].

    One column a time slice, at most `columns` of them, evenly spaced, showing the slice's first frame.
    Scores are coloured from the least (dark) to the greatest (pale) of the clip; hidden patches are grey.
    Errors: ValueError when the time slices or the grid do not divide the clip.
    """
    slices = next((len(x) for x in (scores_Thw, mask_Thw) if x is not None), len(clip_THWC))
    for grid in (scores_Thw, mask_Thw):
        if grid is not None and (
            len(grid) != slices or any(a % b for a, b in zip(clip_THWC.shape, grid.shape, strict=False))
        ):
            raise ValueError(
                f"a grid of {grid.shape} does not divide a clip of {clip_THWC.shape[:3]} in {slices} slices"
            )
    slots = np.unique(np.linspace(0, slices - 1, min(columns, slices)).round().astype(int))
    frames = clip_THWC[slots * (len(clip_THWC) // slices)]
    rows = [frames]
    if scores_Thw is not None:
        rows.append(heat(frames, scores_Thw[slots], low=float(scores_Thw.min()), high=float(scores_Thw.max())))
    if mask_Thw is not None:
        rows.append(hide(frames, mask_Thw[slots]))
    strip = np.concatenate([_beside(row) for row in rows])[:-GAP]
    return strip if not text else np.concatenate([_caption(text, strip.shape[1]), strip])


def heat(frames_THWC: Pixels, scores_Thw: NDArray[Any], *, low: float, high: float, opacity: float = 0.6) -> Pixels:
    """Scores laid over grey frames, one colour a patch: uint8 [T, H, W, 3]."""
    unit = np.clip((scores_Thw.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1) * (len(HEAT) - 1)
    colour = np.stack([np.interp(unit, range(len(HEAT)), HEAT[:, channel]) for channel in range(3)], axis=-1)
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
    (x0, x1), (y0, y1) = (_room([point[axis] for point in points]) for axis in (0, 1))
    left, top, right, bottom = 70, 40, width - 20, height - 45
    image = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x - x0) / (x1 - x0) * (right - left), bottom - (y - y0) / (y1 - y0) * (bottom - top)

    for value in _ticks(y0, y1):
        y = place(x0, value)[1]
        draw.line([(left, y), (right, y)], fill="#dddddd")
        draw.text((left - 8, y), f"{value:g}", fill="black", font=font, anchor="rm")
    for value in _ticks(x0, x1):
        x = place(value, y0)[0]
        draw.line([(x, bottom), (x, bottom + 5)], fill="black")
        draw.text((x, bottom + 8), f"{value:g}", fill="black", font=font, anchor="ma")
    draw.rectangle((left, top, right, bottom), outline="black")
    draw.text((left, 12), _drawn(title), fill="black", font=font)
    draw.text((right, height - 6), x_name, fill="black", font=font, anchor="rb")
    legend = float(right)
    for number, (given, line) in enumerate(finite.items()):
        name = _drawn(given)
        colour = LINES[number % len(LINES)]
        places = [place(x, y) for x, y in sorted(line)]
        for x, y in places[:1]:  # a single point is no line
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        draw.line(places, fill=colour, width=2, joint="curve")
        draw.text((legend, top - 8), name, fill=colour, font=font, anchor="rb")
        legend -= draw.textlength(name, font=font) + 16
    return np.asarray(image)


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


def _caption(text: str, width: int) -> Pixels:
    image = Image.new("RGB", (width, 20), "white")
    ImageDraw.Draw(image).text((2, 2), _drawn(text), fill="black", font=ImageFont.load_default(13))
    return np.asarray(image)


def _drawn(text: str) -> str:
    """What the font can draw of it: few letters beyond Latin, and on one line."""
    return " ".join(shown(text).split()).encode("latin-1", "replace").decode("latin-1")


def _room(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.03 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between low and high: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]
