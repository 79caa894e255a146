"""Beginning in a run's folder: refusing what would displace another run unasked, and clearing what is not continued."""

import shutil
from collections.abc import Sequence

from schemas import log
from schemas.atomic import write_bytes
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import FILE as RECORD
from schemas.stage import StageSpec
from schemas.toml import dump
from train.engine import checkpoint_files
from train.engine.distributed import Ranks
from train.engine.metrics import FILE as METRICS
from train.engine.run_folder import Held, Part, bring_back, look, set_aside

CONFIG = "config.toml"  # of a run: the whole experiment


def state(spec: StageSpec, ranks: Ranks, part: Part = lambda record: record, *, rebuild: bool) -> Held:
    """What there is of this run, once it is back in its place where it was kept aside; on all ranks the same.

    Errors: UserError when the folder holds another run, unless `rebuild`, which lets that one be moved aside.
    """
    held = look(spec, part)
    if held.aside is not None and not rebuild:
        reasons = [] if held.before is None else spec.differences(held.before)
        raise UserError(
            f"{spec.folder} holds a run of another config or other data: {'; '.join(reasons)}. "
            "Give this one another name (--set name=NAME), or move that one aside (--rebuild)"
        )
    if held.back is None:
        return held
    ranks.wait()  # all have looked: now one may change things
    if ranks.main:
        if held.aside is not None:
            set_aside(held.aside, spec.stage)
        bring_back(held.back, spec.stage)
    ranks.wait()
    return look(spec, part)


def prepare(experiment: Experiment, spec: StageSpec, held: Held, outputs: Sequence[str]) -> None:
    """The run's folder, with nothing in it of a run that is not continued; outputs: names of its results."""
    if held.aside is not None:
        set_aside(held.aside, spec.stage)
    spec.folder.mkdir(parents=True, exist_ok=True)
    # stage.json first: should we be stopped between, the rest counts as incomplete, never as whole.
    (spec.folder / RECORD).unlink(missing_ok=True)
    if held.checkpoint is None:
        for name in (*outputs, METRICS, log.FILE):
            (spec.folder / name).unlink(missing_ok=True)
        for name in (checkpoint_files.FOLDER, "tensorboard"):
            if (spec.folder / name).is_dir():
                shutil.rmtree(spec.folder / name)
    checkpoint_files.clean(spec.folder)
    log.keep_in(spec.folder)
    write_bytes(spec.folder / CONFIG, dump(experiment).encode())
