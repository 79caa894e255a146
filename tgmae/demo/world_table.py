"""The paper's comparisons in miniature, on the embedded world: `make world-table`.

    python -m tgmae.demo.world_table [--folder work/world] [--seeds 3] [--rows tube text ...]

Writes bench/results/world_table.json (docs/results.md is made of it). Stopped, it resumes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from schemas.config import Experiment
from tgmae.demo import comparison
from tgmae.demo.comparison import Extra, Place, Row, compare, options
from tgmae.demo.demo import demo_experiment
from tgmae.run import DATA, run
from tgmae.shipped_files import CONFIGS
from train.evaluation.results import metrics_of

RESULTS = CONFIGS.parent / "bench" / "results" / "world_table.json"
BASE = (
    *comparison.BASE, "optim.epochs=3", "optim.warmup_epochs=0.3", "pretrain.workers=0", "probe.linear.optimizer=sgd",
    "probe.linear.base_lr=[1.0]", "probe.linear.epochs=1", "probe.linear.warmup_epochs=0",
)  # fmt: skip
"""180 updates, and of the linear probes the exact one (L-BFGS) alone: three seeds in 45 minutes of two cores."""
ALONE, BOTH = "objective.contrastive=0", "objective.contrastive=1"
NOT_TRAINED = ("clip.repeats=1", "optim.epochs=1", "optim.warmup_epochs=0", "optim.base_lr=1e-12", "optim.min_lr=0")
"""Keeps the weights that every other row begins with: a classifier's own, by VideoMAE's recipe for wide models, are so
small here that supervision comes to 50 % in place of 75."""
TUBE = ("guide=none", "mask.kind=tube", "mask.text_share=[1,1]")
MOTION = ("guide=motion-vectors", "mask.kind=motion-vectors", "mask.text_share=[1,1]")
FLOW = ("guide=optical-flow", "mask.kind=optical-flow", "mask.text_share=[1,1]")
TEXT = ("guide=text", "mask.kind=top-k", "mask.text_share=[1,1]")
HALF = ("guide=text", "mask.kind=top-k", "mask.text_share=[0.5,0.5]")
BOTTOM = ("guide=text", "mask.kind=bottom-k", "mask.text_share=[1,1]")
SUPERVISED = (
    'stages=["pretrain", "finetune"]', "finetune.epochs=20", "finetune.repeats=1", "finetune.batch_size=32",
    "finetune.base_lr=3e-3", "finetune.warmup_epochs=2", "finetune.layer_decay=1", "finetune.drop_path=0",
    "finetune.mixup=0", "finetune.cutmix=0", 'finetune.rand_augment=""', "finetune.erasing=0",
    "finetune.area=[0.6,1]", "finetune.smoothing=0", "finetune.temporal_views=2", "finetune.spatial_views=1",
    "finetune.clip_grad=1",
)  # fmt: skip
BOUNDS = (
    Row("untrained", "untrained encoder (floor)", (*TUBE, ALONE, *NOT_TRAINED)),
    Row("supervised", "supervised from scratch, 600 updates", (*TUBE, ALONE, *NOT_TRAINED, *SUPERVISED)),
    Row("supervised-motion", "the same, supervised on how it moves",
        (*TUBE, ALONE, *NOT_TRAINED, *SUPERVISED, 'workspace="{folder}/motions"', "index.format=csv",
         'index.list="{folder}/motions.csv"')),
)  # fmt: skip
TABLES: dict[str, tuple[Row, ...]] = {
    "Masks and losses (Table 2)": (
        Row("tube-nce", "contrastive alone, tube", (*TUBE, "objective.reconstruction=0", BOTH)),
        Row("tube", "tube", (*TUBE, ALONE)), Row("tube-both", "tube + contrastive", (*TUBE, BOTH)),
        Row("motion", "motion vectors", (*MOTION, ALONE)),
        Row("motion-both", "motion vectors + contrastive", (*MOTION, BOTH)),
        Row("flow", "optical flow", (*FLOW, ALONE)), Row("flow-both", "optical flow + contrastive", (*FLOW, BOTH)),
        Row("text", "text", (*TEXT, ALONE)), Row("text-both", "text + contrastive", (*TEXT, BOTH)),
        Row("half-text", "half text, half chance", (*HALF, ALONE)),
        Row("half-text-both", "half text, half chance + contrastive", (*HALF, BOTH)),
    ),
    "Mask ratio (Table 5a), half text + contrastive": (
        Row("ratio40", "0.4", (*HALF, BOTH, "mask.ratio=0.4")), Row("half-text-both", "0.6", (*HALF, BOTH)),
        Row("ratio75", "0.75", (*HALF, BOTH, "mask.ratio=0.75")),
    ),
    "Direction (Table 5b), text": (
        Row("bottom-k", "bottom-k", (*BOTTOM, ALONE)), Row("text", "top-k", (*TEXT, ALONE)),
    ),
    "Captions of a video (Table 5c), half text + contrastive": (
        Row("captions1", "1", (*HALF, BOTH, 'captions="blip2.one"', "caption.keyframes=1")),
        Row("half-text-both", "3", (*HALF, BOTH)),
    ),
    "Caption sources (Table 6b), half text + contrastive": (
        Row("half-text-both", "small BLIP-2", (*HALF, BOTH)),
        Row("oracle", "label", (*HALF, BOTH, "captions=oracle")),
        Row("by-hand", "descriptions written by hand", (*HALF, BOTH, "captions=llm")),
        Row("blip2-by-hand", "BLIP-2 and descriptions", (*HALF, BOTH, 'captions="blip2+llm"')),
    ),
}  # fmt: skip
DESCRIBED = ("captions=llm", 'captions="blip2+llm"')


def rows() -> list[Row]:
    """Each once, the bounds first; rows with descriptions know where those are."""
    found = {row.name: row for row in (*BOUNDS, *(row for table in TABLES.values() for row in table))}
    file = f"caption.llm.file={json.dumps(str(CONFIGS / 'world' / 'descriptions.json'))}"
    return [Row(row.name, row.title, (*row.overrides, file)) if set(DESCRIBED) & set(row.overrides) else row
            for row in found.values()]  # fmt: skip


class Transfer(Extra):
    """Table 3: the run's encoder probed on a second world, of other videos, larger and fewer."""

    def __init__(self, place: Place) -> None:
        self.second = Place(
            place.folder / "second", place.results, videos=place.videos * 2 // 5, size=96, world_seed=1_000
        )

    def experiment(self, base: Sequence[str], name: str, *more: str) -> Experiment:
        overrides = [*base, *TUBE, ALONE, 'stages=["probe"]', f"name={json.dumps(name)}", *more]
        return demo_experiment(self.second.folder, None, overrides)

    def prepare(self, base: Sequence[str]) -> None:
        self.second.draw()
        run(self.experiment(base, "none"), only=DATA)

    def of(self, experiment: Experiment, base: Sequence[str]) -> dict[str, float]:
        if "probe" not in experiment.stages:
            return {}
        init = Path(experiment.workspace) / "runs" / experiment.name
        there = self.experiment(base, experiment.name, f"model.init={json.dumps(str(init))}")
        run(there)
        found = metrics_of(there, "probe")
        return {"transfer": round(found["top1"], 4), "transfer_knn": round(found["top1_knn"], 4)}


def main() -> None:
    given = options(__doc__ or "", rows(), RESULTS, BASE)
    compare(given.place, given.rows, given.seeds, given.base, jobs=given.jobs, extra=Transfer(given.place))


if __name__ == "__main__":
    main()
