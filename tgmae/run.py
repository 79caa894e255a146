"""`tgmae run`: does what is not current, in order, and prints why each stage is built or skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.runtime.ray_session import shared_ray
from schemas.config import Experiment, StageName
from schemas.errors import UserError
from schemas.replacement import replacement_folder
from schemas.stage import StageRecord, StageSpec, begun_record, damage, read_record
from tgmae.stages import STAGES, Stage, part_stages

Action = Literal["current", "build", "resume", "rebuild", "pending"]


COMMANDS = {"part": "tgmae caption WORKSPACE --source SET", "embed": "tgmae guide WORKSPACE --guide embeddings"}
"""Of the stages that are no command of their own."""


@dataclass(frozen=True)
class Step:
    """What is to be done for one stage. `rebuild` replaces something: a finished stage, or the parts of another one."""

    stage: str
    action: Action
    reason: str

    def __str__(self) -> str:
        made_by = f" (made by `{COMMANDS[self.stage]}`)" if self.stage in COMMANDS and self.works else ""
        return f"{self.stage:<9} {self.action:<8} {self.reason}{made_by}"

    @property
    def works(self) -> bool:
        return self.action in ("build", "resume", "rebuild")


def decide(stage: Stage, experiment: Experiment) -> Step:
    """What is to be done for one stage whose inputs are complete: what a plan prints, and what a run does."""
    spec = stage.spec(experiment)
    record = read_record(spec.folder)
    if record is None:
        return _unfinished(stage, spec)
    reasons = [*spec.differences(record), *damage(spec.folder, record)]
    if reasons:
        begun = begun_record(replacement_folder(spec.folder))
        resumed = "; resumes the rebuild that was stopped" if begun and begun.fingerprint == spec.fingerprint else ""
        return Step(stage.name, "rebuild", "; ".join(reasons[:8]) + resumed)
    return Step(stage.name, "current", f"{spec.folder}{_counts(record)}")


def _unfinished(stage: Stage, spec: StageSpec) -> Step:
    begun = begun_record(spec.folder)
    if begun is None:
        return Step(stage.name, "build", f"no output yet ({spec.folder})")
    reasons = stage.begun_spec(spec).differences(begun)
    if reasons:
        return Step(stage.name, "rebuild", f"what was begun has another config: {'; '.join(reasons[:8])}")
    return Step(stage.name, "resume", str(spec.folder))


def _counts(record: StageRecord) -> str:
    done, failed = record.counts.get("done"), record.counts.get("failed")
    return "" if done is None else f": {done} done, {failed or 0} failed"


def plan(experiment: Experiment) -> list[Step]:
    """What a run would do, without doing it. A stage after one that is built is decided when its input is complete."""
    steps: list[Step] = []
    for stage in _wanted(experiment):
        try:
            step = decide(stage, experiment)
        except UserError:
            waits = [earlier.stage for earlier in steps if earlier.action != "current"]
            if not any(earlier.works for earlier in steps):
                raise
            step = Step(stage.name, "pending", f"waits for {', '.join(waits)}")
        else:
            needs = set(NEEDS[stage.name])
            if "captions" not in stage.spec(experiment).inputs:  # a guide that is not made from them
                needs.discard("caption")
            upstream = [earlier.stage for earlier in steps if earlier.action != "current" and earlier.stage in needs]
            if step.action == "current" and upstream:
                step = Step(stage.name, "pending", f"rebuilt if {' or '.join(upstream)} changes its input")
        steps.append(step)
    return steps


NEEDS = {
    "index": (),
    "part": ("index",),
    "caption": ("index", "part"),
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
    _check_models(experiment, only)
    with shared_ray() as ray:
        for stage in _wanted(experiment):
            if only is not None and stage.name not in only:
                continue
            step = decide(stage, experiment)
            say(str(step))
            if step.works:
                if stage.name not in DATA:
                    ray.close()  # training has the machine to itself
                stage.run(experiment)


def _check_models(experiment: Experiment, only: Sequence[str] | None) -> None:
    """Raises UserError, before hours of other stages, when a model of one that is not current cannot be had."""
    for stage in _wanted(experiment):
        if stage.check is None or (only is not None and stage.name not in only):
            continue
        try:
            current = decide(stage, experiment).action == "current"
        except UserError:  # its input is made by a stage before it
            current = False
        if not current:
            stage.check(experiment)


def run_one(name: str, experiment: Experiment, say: Callable[[str], None] = print, *, rebuild: bool = False) -> None:
    """Brings the one stage up to date. Raises UserError where that would replace what there is, unless `rebuild`."""
    stage = next(each for each in STAGES if each.name == name)
    step = decide(stage, experiment)
    say(str(step))
    if not step.works:
        return
    if step.action == "rebuild" and not rebuild:
        raise UserError(
            f"{stage.spec(experiment).folder} has another config or other inputs: {step.reason}. Nothing was done. "
            "--rebuild replaces it; what is finished stays until its replacement is finished"
        )
    stage.run(experiment)
    say(str(decide(stage, experiment)))


def _wanted(experiment: Experiment) -> list[Stage]:
    """The stages of this experiment in their order; the parts of a mix of captions come before it."""
    return [
        each
        for stage in STAGES
        if stage.wanted(experiment)
        for each in (*(part_stages(experiment) if stage.name == "caption" else ()), stage)
    ]
