"""The JSON that every evaluation leaves: what was measured, of what, on what, and when. `tgmae table` reads these."""

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.atomic import write_json
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.workspace import Workspace
from train.engine.record import tools

FILE = "result.json"


class Checkpoint(BaseModel):
    """The weights that were evaluated, or that fine-tuning began with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str  # a folder, a file, or "untrained"
    sha256: str | None  # of the file; None: there is none


class Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    kind: Literal["finetune", "probe", "retrieve"]
    name: str  # of the run
    experiment: dict[str, Any]  # the whole config
    checkpoint: Checkpoint
    dataset: str  # digest of the clips: equal for equal videos, labels and splits
    metrics: dict[str, float]  # shares are of 1, not per cent
    views: dict[str, int | str]  # of a test video
    counts: dict[str, int]  # of videos and classes
    warnings: list[str]  # what a reader of the numbers must know
    date: str  # UTC, ISO 8601
    tools: dict[str, str]  # versions
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured; the fields are those of Result."""

    kind: Literal["finetune", "probe", "retrieve"]
    checkpoint: Checkpoint
    dataset: str
    metrics: dict[str, float]
    views: dict[str, int | str]
    counts: dict[str, int]
    warnings: list[str]
    seconds: float


def write_result(folder: Path, experiment: Experiment, evaluation: Evaluation) -> Result:
    """Writes folder/result.json, whole or not at all."""
    result = Result(
        **{**vars(evaluation), "seconds": round(evaluation.seconds, 3)},
        name=experiment.name, experiment=experiment.model_dump(mode="json"),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"), tools=tools(),
    )  # fmt: skip
    write_json(folder / FILE, result.model_dump(mode="json"))
    return result


def metrics_of(experiment: Experiment, kind: str) -> dict[str, float]:
    """What finetune, probe or retrieve (`kind`) measured of the experiment's run. Errors: as read_result."""
    folder = Workspace(Path(experiment.workspace)).run(experiment.name)
    return read_result(folder / kind / FILE).metrics


def read_result(path: Path) -> Result:
    """Errors: UserError when it is missing, or not such a file."""
    try:
        return Result.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the result {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path} is not a result of this version: {place + ': ' if place else ''}{first['msg']}"
        ) from error
