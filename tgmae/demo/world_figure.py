"""One figure of the world table: each way to mask, with and without the contrastive loss, between floor and ceiling."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MASKS = {
    "tube": "tube (random)", "flow": "optical flow", "motion": "motion vectors", "half-text": "half text, half random",
    "text": "text",
}  # fmt: skip
LOSSES = {"-both": "reconstruction + contrastive", "": "reconstruction"}
BOUNDS = {"untrained": "untrained", "supervised": "supervised"}
Run = dict[str, Any]


def world_figure(runs: Sequence[Run], file: Path) -> None:
    """Linear probe of what is seen, per cent, mean and deviation over the seeds of each row; written as PNG."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for shift, (suffix, loss) in enumerate(LOSSES.items()):
        points = [(place, values) for place, mask in enumerate(MASKS) if (values := _of(runs, mask + suffix))]
        axes.errorbar(
            [statistics.mean(values) for _, values in points], [place - 0.12 + 0.24 * shift for place, _ in points],
            xerr=[statistics.stdev(values) if len(values) > 1 else 0 for _, values in points],
            fmt="os"[shift], capsize=3, label=loss,
        )  # fmt: skip
    for style, (row, title) in zip(("--", ":"), BOUNDS.items(), strict=True):
        if values := _of(runs, row):
            axes.axvline(statistics.mean(values), linestyle=style, color="grey", label=title)
    axes.set(yticks=range(len(MASKS)), yticklabels=MASKS.values(), xlim=(0, 100),
             xlabel="linear probe of what is seen, top-1 (per cent)")  # fmt: skip
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.4)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=120)


def _of(runs: Iterable[Run], row: str) -> list[float]:
    return [100 * value for run in runs if run["row"] == row
            if (value := run.get("linear", run.get("finetune"))) is not None]  # fmt: skip
