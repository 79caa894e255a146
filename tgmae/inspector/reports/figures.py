"""The paper's figures of one's own videos: one clip under each kind of mask (Figure 1), what a checkpoint makes of it
(Figure 3), the contrastive loss of runs (Figure 4). For the eye of anybody: even heat, lines that differ in dashes.

Shape suffixes: T frames of a clip, T' time slices, H rows, W columns, C channels; h x w the token grid.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.foreign_text import shown
from tgmae.demo.clip_views import token_grid
from tgmae.inspector.drawn_clips import (
    Clips,
    DrawnClip,
    Wanted,
    as_the_run,
    experiment_of,
    hidden_in_words,
    run_names,
)
from tgmae.inspector.frame_pictures import model_clip, shown_size, strip
from tgmae.inspector.reports.text_fonts import fonts_for
from train.engine import metrics
from train.pictures import heat, hide
from train.reconstructions import STATISTICS, Statistics, centre_attention, load_checkpoint, reconstruct

Pixels = NDArray[np.uint8]
DPI = 120
COLUMNS = 8  # time slices of a figure, at most
SIDE = 0.95  # inches of a frame
FEW = 4  # time slices; of a clip with fewer, rows stand side by side
LINES = [
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", ":"),
    ("#CC79A7", "-."),
    ("#56B4E9", (0, (5, 1))),
]  # Okabe-Ito


class Row(NamedTuple):
    label: str
    frames_THWC: Pixels


class Sheet(NamedTuple):
    """What a figure shows: rows of frames of one clip, with its caption."""

    title: str
    rows: list[Row]
    note: str = ""

    @property
    def text(self) -> str:
        return " ".join([self.title, self.note, *(row.label for row in self.rows)])


def mask_sheet(clips: Clips, experiment: Experiment, row: int, *, every_frame: bool = False) -> Sheet:
    """One clip under each kind of mask that the workspace has a guide for, at the run's ratio; centre crop.

    every_frame: for moving pictures; else the first frame of each time slice.
    """
    plain, guides = as_the_run(experiment), _guides(clips, row)
    text = (
        experiment.guide_name
        if experiment.guide_name in guides
        else next((name for name in guides if name.startswith("text-")), None)
    )
    motion = next((name for name in ("motion-vectors", "flow-magnitude") if name in guides), None)
    flow = "optical-flow" if "optical-flow" in guides else None
    wanted: list[tuple[str, str | None, str]] = [("random", None, "random"), ("tube", None, "tube (VideoMAE)")]
    if text:
        wanted += [("top-k", text, "text, top-k (TGM)"), ("bottom-k", text, "text, bottom-k")]
    if motion:
        wanted += [("motion-vectors", motion, "motion (MGM)"), ("motion-box", motion, "motion, box")]
    if flow:
        wanted += [("optical-flow", flow, "optical flow (MGMAE)")]
    drawn = {
        label: clips.draw(experiment, row, guide, Wanted(kind, plain.ratio, 1.0, "centre", entry=0))
        for kind, guide, label in wanted
    }
    first = next(iter(drawn.values()))
    frames, slots = _frames(clips, experiment, row, first, every_frame)
    rows = [Row("frames", frames)]
    scored = drawn.get("text, top-k (TGM)") or drawn.get("motion (MGM)")
    if scored is not None and scored.scores_THW is not None:
        low, high = float(scored.scores_THW.min()), float(scored.scores_THW.max())
        name = "text scores" if text else "motion"
        rows.append(Row(name, heat(frames, scored.scores_THW[slots], low=low, high=high)))
    rows += [Row(label, hide(frames, each.hidden_THW[slots])) for label, each in drawn.items()]
    said = f": “{scored.captions[0]}”" if scored is not None and scored.captions else ""
    return Sheet(shown(f"{first.meta.video_id}{said}"), rows, f"{plain.ratio:.0%} of the patches are hidden")


def run_sheet(clips: Clips, experiment: Experiment, row: int) -> Sheet:
    """One clip as a run sees it, in its last epoch but with the centre crop: frames, scores, what its mask leaves.

    Errors: UserError where the run's guide has nothing for the video.
    """
    plain, guide = replace(as_the_run(experiment), crop="centre"), experiment.guide_name
    drawn = clips.draw(experiment, row, guide, plain)
    frames, slots = _frames(clips, experiment, row, drawn, False)
    rows = [Row("frames", frames)]
    if drawn.scores_THW is not None:
        low, high = float(drawn.scores_THW.min()), float(drawn.scores_THW.max())
        rows.append(Row(f"scores of\n{guide}", heat(frames, drawn.scores_THW[slots], low=low, high=high)))
    rows.append(Row("what the run sees", hide(frames, drawn.hidden_THW[slots])))
    said = f": “{drawn.captions[drawn.entry]}”" if drawn.captions else ""
    return Sheet(shown(f"{drawn.meta.video_id}{said}"), rows, hidden_in_words(experiment, plain))


def reconstruction_sheet(
    clips: Clips, run: str, row: int, *, weights: str = "model", statistics: Statistics = "neighbours"
) -> Sheet:
    """Frames, mask, reconstruction, and what the middle patch attends to, by a checkpoint of a run.

    Errors: UserError for weights that are not there, or a run without reconstruction.
    """
    experiment, model = load_checkpoint(clips.workspace.run(run), weights)
    experiment = experiment.model_copy(update={"workspace": str(clips.workspace.root)})
    plain = as_the_run(experiment)
    wanted = Wanted(plain.kind, plain.ratio, plain.share, "centre", plain.seed, plain.epoch)
    drawn = clips.draw(experiment, row, experiment.guide_name, wanted)
    clip_THWC = model_clip(clips, experiment, row, drawn)
    norm = experiment.objective.norm_pixels
    made = reconstruct(model, clip_THWC, drawn.hidden_THW, norm=norm, statistics=statistics)
    attention_THW = centre_attention(model.encoder, clip_THWC)
    slots = _slots(len(drawn.hidden_THW))
    first = slots * experiment.model.tubelet
    frames, most = clip_THWC.numpy()[first], float(attention_THW.max())
    rows = [
        Row("frames", frames),
        Row("visible", hide(frames, drawn.hidden_THW[slots])),
        Row("reconstruction", made.clip_THWC[first]),
        Row("attention of\nthe middle patch", heat(frames, attention_THW[slots], low=0, high=most)),
    ]
    note = f"loss on the hidden patches {made.error:.3f}"
    if norm:
        note += f"; {STATISTICS[statistics]}"
    name = {"model": "after training", "untrained": "before training"}.get(weights, weights.replace("_", " "))
    return Sheet(shown(f"{drawn.meta.video_id}, {run} {name}"), rows, note)


def draw_sheet(sheet: Sheet) -> Figure:
    """Rows with their labels on the left; of a clip of few time slices several side by side, with labels above."""
    families, _ = fonts_for(sheet.text)
    columns = len(sheet.rows[0].frames_THWC)
    abreast, side, left, above = (1, SIDE, 1.55, 0.0) if columns >= FEW else (3, 1.25, 0.12, 0.26)
    row_height, row_width = side * _aspect(sheet) + above, columns * side + 0.1
    width = left + abreast * row_width + 0.05
    note = textwrap.wrap(sheet.note, round(width * 13))
    top = 0.48 + 0.17 * len(note)
    height = top + -(-len(sheet.rows) // abreast) * row_height + 0.05
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    title = textwrap.shorten(sheet.title, round(width * 10), placeholder=" …")
    figure.text(0.1 / width, 1 - 0.24 / height, title, fontsize=10, fontweight="bold", family=families, va="center")
    for place, line in enumerate(note):
        figure.text(
            0.1 / width,
            1 - (0.46 + 0.17 * place) / height,
            line,
            fontsize=8,
            color="#555",
            family=families,
            va="center",
        )
    for place, row in enumerate(sheet.rows):
        down, across = divmod(place, abreast)
        bottom, start = height - top - (down + 1) * row_height, left + across * row_width
        axes = figure.add_axes(
            (start / width, (bottom + 0.05) / height, (row_width - 0.1) / width, (row_height - above - 0.05) / height)
        )
        padded = np.pad(
            row.frames_THWC, ((0, 0), (0, 0), (0, row.frames_THWC.shape[2] // 24), (0, 0)), constant_values=255
        )
        axes.imshow(np.concatenate(list(padded), axis=1), aspect="auto", interpolation="nearest")
        axes.set_axis_off()
        label = (start, bottom + row_height - above / 2) if above else (0.1, bottom + row_height / 2)
        text = row.label.replace("\n", " ") if above else row.label
        figure.text(label[0] / width, label[1] / height, text, fontsize=9, va="center", family=families)
    return figure


def _aspect(sheet: Sheet) -> float:
    height, width = sheet.rows[0].frames_THWC.shape[1:3]
    return float(height / width)


def contrastive_figure(workspace: Any) -> Figure:
    """The contrastive loss of every run that computes it, by update: Figure 4.

    A run with objective.contrastive = 1e-6 has it as good as not optimised in the encoder: its head is trained by
    what the encoder shows, for AdamW divides the weight out of the head's steps, and the encoder follows the pixels.
    Errors: UserError where no run has one.
    """
    series = {}
    for name in run_names(workspace):
        log = workspace.run(name) / "metrics.jsonl"
        rows = metrics.read(log) if log.is_file() else []
        points = [(row["step"], row["contrastive"]) for row in rows if math.isfinite(row.get("contrastive", math.nan))]
        if points:
            weight = experiment_of(workspace, name).objective.contrastive
            series[f"{name} ({'not optimised' if weight < 1e-3 else f'optimised, weight {weight:g}'})"] = points
    if not series:
        raise UserError("no run of this workspace computes a contrastive loss (objective.contrastive)")
    return line_figure(series, title="contrastive loss, video and text")


def line_figure(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x: str = "update") -> Figure:
    families, _ = fonts_for(" ".join(series))
    figure = Figure(figsize=(6.4, 3.2), dpi=DPI, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for place, (name, points) in enumerate(series.items()):
        colour, dashes = LINES[place % len(LINES)]
        axes.plot(*zip(*points, strict=True), label=shown(name), color=colour, linestyle=dashes, linewidth=1.8)
    axes.set_title(shown(title), fontsize=10, loc="left", family=families)
    axes.set_xlabel(x)
    axes.grid(axis="y", alpha=0.35)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(series) > 1 or title not in series:
        axes.legend(frameon=False, prop={"family": families, "size": 8})
    return figure


def image_bytes(figure: Figure, format: str = "png") -> bytes:
    """png or svg. The svg's letters are outlines: it looks alike where the fonts are not installed."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    metadata = {"Date": None} if format == "svg" else {}
    figure.savefig(buffer, format=format, metadata=metadata)
    return buffer.getvalue()


def _guides(clips: Clips, row: int) -> list[str]:
    """Those with score maps of the video."""
    found = []
    for path in sorted((clips.workspace.root / "guides").glob("[!.]*/stage.json")):
        name = path.parent.name
        try:
            if not name.startswith("embeddings-") and clips.opened(name).sidecar(name).entries(row):
                found.append(name)
        except UserError:  # of other clips
            continue
    return found


def _slots(slices: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, slices - 1, min(COLUMNS, slices)).round().astype(np.int64))


def _frames(
    clips: Clips, experiment: Experiment, row: int, drawn: DrawnClip, every: bool
) -> tuple[Pixels, NDArray[np.int64]]:
    """Frames of the clip at the page's size, and the time slice of each."""
    t, size, tubelet = token_grid(experiment)[0], shown_size(experiment), experiment.model.tubelet
    slots = np.arange(t * tubelet) // tubelet if every else _slots(t)
    numbers = drawn.frames_T if every else drawn.frames_T[slots * tubelet]
    side_by_side = strip(clips, experiment, row, numbers, drawn.crop)
    return np.stack(np.split(side_by_side, side_by_side.shape[1] // size, axis=1)), slots
