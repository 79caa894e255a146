"""`tgmae run`: does what is not current, in order, and prints why each stage is built or skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from pipeline.runtime.ray_session import shared_ray
from schemas import log
from schemas.config import Experiment, StageName
from schemas.errors import MissingInput, UserError
from schemas.replacement import settle_all
from schemas.stage import TO_FIND, StageRecord, StageSpec, damage, read_record
from tgmae.stages import STAGES, Stage, part_stages
from train.engine.run_folder import Move

Action = Literal["current", "build", "resume", "rebuild", "restore", "pending"]


COMMANDS = {"part": "tgmae caption WORKSPACE --source SET", "embed": "tgmae guide WORKSPACE --guide embeddings"}
"""Of the stages that are no command of their own."""


@dataclass(frozen=True)
class Step:
    """What is to be done for one stage.

    `rebuild` replaces something: a finished stage, or the parts of another one; `restore` takes back a run of this very
    config that was set aside, to be resumed where it is not finished.
    """

    stage: str
    action: Action
    reason: str
    moves: tuple[Move, ...] = ()  # of runs, before anything else
    expected: bool = False  # of a pending one: whether it will be made, as far as can be seen

    def line(self, verb: str) -> str:
        """`verb`: "is", or in a plan "would be"."""
        made_by = f" (made by `{COMMANDS[self.stage]}`)" if self.stage in COMMANDS and self.works else ""
        verb = "may be" if self.action == "pending" else verb
        moved = "".join(f"; {str(move).format(verb)}" for move in self.moves)
        return f"{self.stage:<9} {self.action:<8} {self.reason}{made_by}{moved}"

    @property
    def works(self) -> bool:
        return self.action in ("build", "resume", "rebuild", "restore")

    @property
    def displaces(self) -> bool:
        """Whether it takes the place of something that was made."""
        return self.action == "rebuild" or len(self.moves) > 1


def decide(stage: Stage, spec: StageSpec) -> Step:
    """What is to be done for one stage whose inputs are complete: what a plan prints, and what a run does."""
    step = _decided(stage, spec)
    later = "found when it is begun"
    chosen = ", ".join(f"{name} auto: {later if value == TO_FIND else value}" for name, value in spec.chosen.items())
    return replace(step, reason=f"{step.reason} ({chosen})") if chosen else step


def _decided(stage: Stage, spec: StageSpec) -> Step:
    record = read_record(spec.folder)
    reasons = [] if record is None else [*spec.differences(record), *damage(spec.folder, record)]
    if record is not None and not reasons:
        return Step(stage.name, "current", f"{spec.folder}{_counts(record)}")
    found = stage.look(spec)
    if found.returns:
        return Step(stage.name, "restore", "a run of this config was kept", tuple(found.moves))
    if record is not None and found.trained:  # other views of a test; a file of the results that is missing
        return Step(stage.name, "resume", f"{'; '.join(reasons[:8])}: from its last checkpoint, without training again")
    if record is not None:
        resumed = "; resumes the rebuild that was stopped" if found.begun and not (found.reasons or found.moves) else ""
        return Step(stage.name, "rebuild", "; ".join(reasons[:8]) + resumed, tuple(found.moves))
    if not found.begun:
        return Step(stage.name, "build", f"no output yet ({spec.folder})")
    if found.reasons:
        reason = f"what was begun has another config: {'; '.join(found.reasons[:8])}"
        return Step(stage.name, "rebuild", reason, tuple(found.moves))
    return Step(stage.name, "resume", str(spec.folder))


def _counts(record: StageRecord) -> str:
    done, failed = record.counts.get("done"), record.counts.get("failed")
    return "" if done is None else f": {done} done, {failed or 0} failed"


def plan(experiment: Experiment, *, only: Sequence[str] | None = None) -> list[Step]:
    """What a run of these stages would do, without doing it; None: of all. A stage after one that is built is decided
    when its input is complete.

    Raises UserError for what would stop the run, as far as it is known beforehand.
    """
    steps: list[Step] = []
    for stage in _wanted(experiment, only):
        try:
            spec = stage.spec(experiment)
            step = decide(stage, spec)
        except MissingInput:
            waits = [earlier.stage for earlier in steps if earlier.action != "current"]
            if not any(earlier.works for earlier in steps):
                raise
            step = _pending(stage, experiment, f"waits for {', '.join(waits)}", expected=True)
        else:
            needs = set(NEEDS[stage.name])
            if "captions" not in spec.inputs:  # a guide that is not made from them
                needs.discard("caption")
            upstream = [earlier.stage for earlier in steps if earlier.action != "current" and earlier.stage in needs]
            if upstream and step.works:  # its inputs may be others by then, and so may be what is kept of it
                reason = f"after {', '.join(upstream)}: {step.action}, {step.reason}"
                step = _pending(stage, experiment, reason, expected=True)
            elif upstream:
                step = _pending(stage, experiment, f"rebuilt if {' or '.join(upstream)} changes its input")
        steps.append(step)
    return steps


def _pending(stage: Stage, experiment: Experiment, reason: str, *, expected: bool = False) -> Step:
    move = stage.displaces(experiment)
    return Step(stage.name, "pending", reason, () if move is None else (move,), expected)


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
    """Brings every stage, or those named, up to date; a stage that is current is not touched.

    Raises UserError, before anything is touched, for what a plan would raise, and for models that cannot be had.
    """
    settle_all(Path(experiment.workspace))
    stages, steps = _wanted(experiment, only), plan(experiment, only=only)
    _check_models(experiment, stages, steps)
    with shared_ray() as ray:
        worked = False
        for stage, planned in zip(stages, steps, strict=True):
            # Until something is made the plan holds: the data folder, which may be large, is not listed again.
            step = decide(stage, stage.spec(experiment)) if worked or planned.action == "pending" else planned
            worked = worked or step.works
            say(step.line("is"))
            if step.works:
                if stage.name not in DATA:
                    ray.close()  # training has the machine to itself
                _run_logged(stage, step, experiment)


def _check_models(experiment: Experiment, stages: Sequence[Stage], steps: Sequence[Step]) -> None:
    """Raises UserError, before hours of other stages, when a model of one that will be made cannot be had."""
    for stage, step in zip(stages, steps, strict=True):
        if stage.check is not None and (step.works or step.expected):
            stage.check(experiment)


def run_one(name: str, experiment: Experiment, say: Callable[[str], None] = print, *, rebuild: bool = False) -> None:
    """Brings the one stage up to date. Raises UserError where that would replace what there is, unless `rebuild`."""
    stage = next(each for each in STAGES if each.name == name)
    settle_all(Path(experiment.workspace))
    step = decide(stage, stage.spec(experiment))
    say(step.line("would be" if step.displaces and not rebuild else "is"))
    if not step.works:
        return
    if step.displaces and not rebuild:
        kept = "--rebuild replaces it; what is finished stays until its replacement is finished"
        if step.moves:
            kept = "--rebuild moves it aside, where it is kept; --name NAME gives this one a name of its own"
        raise UserError(
            f"{stage.spec(experiment).folder} has another config or other inputs: {step.reason}. Nothing was done. "
            + kept
        )
    _run_logged(stage, step, experiment)
    say(decide(stage, stage.spec(experiment)).line("is"))


def _run_logged(stage: Stage, step: Step, experiment: Experiment) -> None:
    with log.capturing():
        log.note(step.line("is"))
        stage.run(experiment)


def _wanted(experiment: Experiment, only: Sequence[str] | None) -> list[Stage]:
    """The stages of this experiment, or those of them named, in their order; the parts of a mix of captions come before
    it."""
    return [
        each
        for stage in STAGES
        if stage.wanted(experiment)
        for each in (*(part_stages(experiment) if stage.name == "caption" else ()), stage)
        if only is None or each.name in only
    ]
