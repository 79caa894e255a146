"""A sheet of frames as a gif or an mp4: its rows next to one another, frame after frame.

Shape suffixes: H rows, W columns, C channels.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from schemas.atomic import write_bytes
from schemas.errors import UserError
from tgmae.inspector.reports.figures import Pixels, Row, Sheet
from tgmae.inspector.reports.text_fonts import fonts_for


def save_moving(path: Path, sheet: Sheet, fps: float) -> None:
    """The rows next to one another, frame after frame: .gif, or .mp4 (H.264).

    Errors: UserError where an mp4 is asked for and PyAV is not installed.
    """
    pictures = []
    for t in range(len(sheet.rows[0].frames_THWC)):
        rows = [Row(row.label, row.frames_THWC[t : t + 1]) for row in sheet.rows]
        pictures.append(_panels(Sheet(sheet.title, rows, sheet.note)))
    if path.suffix == ".gif":
        from PIL import Image

        first, *rest = [Image.fromarray(picture).quantize(128) for picture in pictures]
        buffer = io.BytesIO()
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
        write_bytes(path, buffer.getvalue())
        return
    try:
        from pipeline.world.write import encode_mp4
    except ModuleNotFoundError as error:
        raise UserError(f"an mp4 needs {error.name}: pip install 'tgmae[pipeline]'; or ask for a gif") from None
    buffer = io.BytesIO()
    encode_mp4(buffer, np.stack(pictures * 2), max(round(fps), 1))  # twice: a clip is short
    write_bytes(path, buffer.getvalue())


def _panels(sheet: Sheet) -> Pixels:
    """One frame of each row side by side, with its label above: uint8 [H, W, 3], even sides."""
    families, _ = fonts_for(sheet.text)
    count, side = len(sheet.rows), 1.5
    columns = min(count, 5)
    lines = -(-count // columns)
    figure = Figure(figsize=(columns * side + 0.1, 0.5 + lines * (side + 0.26)), dpi=100, facecolor="white")
    figure.suptitle(sheet.title, fontsize=9, fontweight="bold", family=families)
    for place, row in enumerate(sheet.rows):
        axes = figure.add_subplot(lines, columns, place + 1)
        axes.imshow(row.frames_THWC[0], interpolation="nearest")
        axes.set_title(row.label.replace("\n", " "), fontsize=7.5, family=families, pad=3)
        axes.set_axis_off()
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.01, top=1 - 0.55 / (0.5 + lines * (side + 0.26)), wspace=0.04, hspace=0.2
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3]
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
