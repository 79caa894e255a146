"""The caption sources of the paper's Table 6b on the embedded world: what they say, and what their masks hide.

Only the captions and the text guide of each are made; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtime.ray_session import shared_ray
from schemas.config import Experiment
from schemas.workspace import Workspace
from tgmae.caption_stats import clip_scores, load
from tgmae.demo.mask_accuracy import compare_masks
from tgmae.inspector.reports.summary_page import Table
from tgmae.run import run
from tgmae.shipped_files import CONFIGS

DESCRIPTIONS = CONFIGS / "world" / "descriptions.json"
SETS = {  # caption set -> what it is made of
    "blip2": "small BLIP-2", "oracle": "label", "llm": "written by hand", "blip2+llm": "BLIP-2 and by hand",
}  # fmt: skip
STAGES = ("part", "caption", "features", "guide")


@shared_ray()
def compare_sources(
    experiment: Experiment, truth: Path, say: Callable[[str], None] = print
) -> dict[str, dict[str, float]]:
    """Of each set the captions, the words of one, the CLIP score, and compare_masks, by name.

    Descriptions of the classes, such as a language model would give, are in configs/world/descriptions.json: written by
    hand.
    """
    found: dict[str, dict[str, float]] = {}
    for name in SETS:
        say(f"== captions {name}")
        variant = with_captions(experiment, name)
        run(variant, say, only=STAGES)
        workspace = Workspace(Path(variant.workspace))
        texts = load(workspace, name).all
        found[name] = {
            "captions": len(texts),
            "different": len(set(texts)),
            "words": round(float(np.mean([len(text.split()) for text in texts])), 1),
            "clip_score": round(float(clip_scores(workspace.guide(str(variant.guide_name))).mean()), 3),
            **compare_masks(variant, truth),
        }
    return found


def with_captions(experiment: Experiment, name: str) -> Experiment:
    values: dict[str, Any] = experiment.model_dump()
    values["caption"]["llm"]["file"] = str(DESCRIPTIONS)
    return Experiment.model_validate({**values, "captions": name, "guide": "text"})


def table(found: dict[str, dict[str, float]]) -> Table:
    titles = {
        "captions": "captions", "different": "different", "words": "words each", "clip_score": "CLIP score",
        "mask_iou": "IoU with the object", "object_masked": "share of the object hidden",
    }  # fmt: skip
    rows = [[f"{name} ({SETS[name]})", *(f"{values[key]:g}" for key in titles)] for name, values in found.items()]
    first = next(iter(found.values()))
    rows.append(["a random mask", "", "", "", "", *(f"{first[f'{key}_random']:g}" for key in list(titles)[-2:])])
    return Table("Caption sources", ["set", *titles.values()], rows)
