"""How good must a map be? Probe accuracy against the precision of the mask, from chance to perfect.

    python -m tgmae.demo.map_precision [--folder work/precision] [--seeds 3]

Two ways lead from a text mask to a random one: `mask.text_share`, of the hidden tokens those that scores choose, and
noise added to the maps (tgmae/demo/noisy_maps.py). Each with and without the contrastive loss. Writes
bench/results/map_precision.json and docs/map_precision.png.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.config import Experiment
from tgmae.demo.comparison import Extra, Row, compare, options
from tgmae.demo.mask_accuracy import hidden_of_object
from tgmae.demo.world_table import ALONE, BOTH
from tgmae.shipped_files import CONFIGS
from train.pictures import loss_curve, save_png

RESULTS = CONFIGS.parent / "bench" / "results" / "map_precision.json"
FIGURE = CONFIGS.parent / "docs" / "map_precision.png"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
NOISES = (1, 2, 4)
LOSSES = {"mae": ALONE, "both": BOTH}


def rows() -> list[Row]:
    found = []
    for loss, objective in LOSSES.items():
        found += [
            Row(f"share{round(100 * share)}-{loss}", f"text_share {share:g}",
                (objective, f"mask.text_share=[{share},{share}]")) for share in SHARES
        ]  # fmt: skip
        found += [
            Row(f"noise{noise}-{loss}", f"noise of {noise} standard deviations",
                (objective, "mask.text_share=[1,1]", f'guide="tgmae.demo.noisy_maps:Noise{noise}"'))
            for noise in NOISES
        ]  # fmt: skip
    return found


def figure(runs: Sequence[dict[str, Any]], file: Path) -> None:
    """Accuracy of the linear probe over the share of the object that masks hide: a line a loss and a way."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in dict.fromkeys(run["row"] for run in runs):
        of_row = [run for run in runs if run["row"] == name]
        way, loss = ("share" if name.startswith("share") else "noise"), name.rpartition("-")[2]
        point = tuple(statistics.mean(run[key] for run in of_row) for key in ("object_hidden", "linear"))
        lines.setdefault(f"{way}, {'MAE' if loss == 'mae' else 'MAE + contrastive'}", []).append((point[0], point[1]))
    title = "linear probe by the share of the object's patches that masks hide"
    save_png(file, loss_curve(lines, title=title, x_name="share of the object hidden", width=960))


class Precision(Extra):
    """The share of the named object's patches that the run's masks hide."""

    def __init__(self, truth: Path) -> None:
        self.truth = truth

    def of(self, experiment: Experiment, base: Sequence[str]) -> dict[str, float]:
        return {"object_hidden": hidden_of_object(experiment, self.truth)}


def main() -> None:
    given = options(__doc__ or "", rows(), RESULTS)
    extra = Precision(given.place.world / "truth")
    figure(compare(given.place, given.rows, given.seeds, given.base, jobs=given.jobs, extra=extra), FIGURE)
    print(f"figure: {FIGURE}")


if __name__ == "__main__":
    main()
