"""Every kind of mask trained briefly on the same videos: what the report shows of them, side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.config import Experiment
from schemas.workspace import Workspace
from tgmae.demo.report import Picture
from tgmae.run import run
from train.engine.metrics import FILE, read
from train.pictures import loss_curve, save_png

GUIDES = {  # kind of mask -> the guide it needs
    "top-k": "text", "bottom-k": "text", "tube": "none", "random": "none", "motion-vectors": "motion-vectors",
    "motion-box": "motion-vectors", "optical-flow": "optical-flow",
}  # fmt: skip


Curves = dict[str, list[tuple[int, float]]]  # kind of mask -> (update, loss)


def variants(experiment: Experiment, epochs: int) -> dict[str, Experiment]:
    """The experiment with each kind of mask and the guide it needs, as a masked autoencoder alone.

    Pixels as they are: early on, the loss then says how hard what each mask hides is to predict.
    """
    return {kind: _changed(experiment, f"mask-{kind}", guide, mask={"kind": kind, "text_share": (1.0, 1.0)},
                           objective={"reconstruction": 1.0, "contrastive": 0.0, "norm_pixels": False},
                           optim={"epochs": epochs, "warmup_epochs": 0.5 * epochs})
            for kind, guide in GUIDES.items()}  # fmt: skip


def _changed(experiment: Experiment, name: str, guide: str, **sections: dict[str, Any]) -> Experiment:
    values = experiment.model_dump()
    for section, changes in sections.items():
        values[section] |= changes
    return Experiment.model_validate({**values, "name": name, "guide": guide, "stages": ("pretrain",)})


def train_all(experiment: Experiment, epochs: int, say: Callable[[str], None] = print) -> Curves:
    """The loss as logged, for each kind."""
    curves: Curves = {}
    for kind, variant in variants(experiment, epochs).items():
        say(f"== mask {kind}")
        run(variant, say)
        log = Workspace(Path(variant.workspace)).run(variant.name) / FILE
        curves[kind] = [(line["step"], line["loss"]) for line in read(log)]
    return curves


def picture(curves: Curves, folder: Path) -> Picture:
    last = ", ".join(f"{kind} {points[-1][1]:.4f}" for kind, points in curves.items())
    save_png(folder / "masks.png", loss_curve(curves, title="loss by kind of mask"))
    said = f"Loss on plain pixels of a short pretraining with each kind of mask; at its end: {last}."
    return Picture("masks.png", said)
