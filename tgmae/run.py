"""`tgmae run`: does what is not current, in order, and says why each stage runs or is skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.runtime.engine import lasting
from schemas.config import Experiment, StageName
from schemas.errors import UserError
from schemas.stage import read_record
from tgmae.stages import STAGES, Stage, sources


@dataclass(frozen=True)
class Step:
    stage: str
    state: Literal["current", "runs", "follows"]
    reason: str

    def __str__(self) -> str:
        return f"{self.stage:<9} {self.state:<8} {self.reason}"


def decide(stage: Stage, experiment: Experiment) -> Step:
    """What is to be done for one stage whose inputs are complete."""
    spec = stage.spec(experiment)
    record = read_record(spec.folder)
    if record is None:
        begun = (spec.folder / ".parts").is_dir() or (spec.folder / "checkpoints").is_dir()
        reason = "goes on where it was stopped" if begun else "not made yet"
        return Step(stage.name, "runs", f"{reason} ({spec.folder})")
    reasons = spec.differences(record)
    if reasons:
        return Step(stage.name, "runs", "; ".join(reasons))
    done, failed = record.counts.get("done"), record.counts.get("failed")
    counts = "" if done is None else f": {done} done, {failed or 0} failed"
    return Step(stage.name, "current", f"{spec.folder}{counts}")


def plan(experiment: Experiment) -> list[Step]:
    """What a run would do, without doing it. A stage after one that runs is decided when its input is there."""
    steps: list[Step] = []
    for stage in _wanted(experiment):
        try:
            step = decide(stage, experiment)
        except UserError:
            if not any(earlier.state == "runs" for earlier in steps):
                raise
            step = Step(stage.name, "follows", "once its input is there")
        else:
            needs = set(NEEDS[stage.name])
            if "captions" not in stage.spec(experiment).inputs:  # a guide that is not made from them
                needs.discard("caption")
            upstream = [earlier.stage for earlier in steps if earlier.state != "current" and earlier.stage in needs]
            if step.state == "current" and upstream:
                step = Step(stage.name, "follows", f"if {' or '.join(upstream)} changes what it reads")
        steps.append(step)
    return steps


NEEDS = {
    "index": (),
    "source": ("index",),
    "caption": ("index", "source"),
    "shard": ("index",),
    "features": ("shard",),
    "guide": ("caption", "shard", "features"),
    "embed": ("caption", "shard"),
    "pretrain": ("shard", "guide", "embed"),
    "finetune": ("index", "shard", "pretrain"),
    "probe": ("shard", "pretrain"),
    "retrieve": ("shard", "guide", "embed", "pretrain"),
}

DATA = tuple(name for name in NEEDS if name not in get_args(StageName))
"""Stages before any training, which experiments share."""


def run(experiment: Experiment, say: Callable[[str], None] = print, *, only: Sequence[str] | None = None) -> None:
    """Brings every stage, or those named, up to date; a stage that is current is not touched."""
    with lasting() as ray:
        for stage in _wanted(experiment):
            if only is not None and stage.name not in only:
                continue
            step = decide(stage, experiment)
            say(str(step))
            if step.state == "runs":
                if stage.name not in DATA:
                    ray.close()  # training has the machine to itself
                stage.run(experiment)


def _wanted(experiment: Experiment) -> list[Stage]:
    """The stages of this experiment in their order; the parts of a mix of captions come before it."""
    return [
        each
        for stage in STAGES
        if stage.wanted(experiment)
        for each in (*(sources(experiment) if stage.name == "caption" else ()), stage)
    ]
