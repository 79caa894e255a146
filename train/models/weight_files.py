"""Where weights lie and what identifies them. Light to import: no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from schemas.atomic import sha256_file
from schemas.config import Experiment
from schemas.errors import MissingInput, UserError, hint
from schemas.foreign_text import parsed_json
from schemas.stage import FILE, read_record
from schemas.workspace import Workspace

MODEL, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
HEAD = "head.safetensors"  # of a run with a contrastive part


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights of a run, of a transformers folder (one or several), or `path` itself, a file.

    Errors: UserError where there are none.
    """
    if path.is_file():
        return [path]
    if (path / MODEL).is_file():
        return [path / MODEL]
    if (path / INDEX).is_file():
        try:
            names = {str(name) for name in parsed_json((path / INDEX).read_bytes())["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path / INDEX} is no index of weights ({error!r}): download it again") from error
        return [path / name for name in sorted(names)]
    if (path / PICKLED).is_file():
        return [path / PICKLED]
    raise UserError(
        f"no weights at {path}: expected the folder of a run or of transformers' VideoMAE (with {MODEL}), or a "
        ".pth file in VideoMAE's own format"
    )


def weights_digest(path: Path) -> str:
    """sha256 of the file with the weights; of several, sha256 of theirs. Errors: as weight_files."""
    digests = [sha256_file(file) for file in weight_files(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def weights_to_evaluate(experiment: Experiment) -> Path:
    """What finetune, probe and retrieve start from: the run of this name, or model.init where `stages` has no pretrain.

    Errors: UserError where that run is not complete, or there is neither.
    """
    run, given = Workspace(Path(experiment.workspace)).run(experiment.name), experiment.model.init
    if "pretrain" not in experiment.stages and given:
        return Path(given)
    if read_record(run) is None:
        near = hint(run.name, [path.parent.name for path in run.parent.glob(f"[!.]*/{FILE}")])
        if "pretrain" not in experiment.stages:
            raise MissingInput(
                f"there is no complete pretraining run in {run}: run `tgmae pretrain`, or name the weights to judge in "
                f"model.init (`stages` has no pretrain).{near}"
            )
        instead = f"take 'pretrain' out of `stages` to judge model.init = {given!r} itself" if given else (
            "name other weights in model.init and take 'pretrain' out of `stages`")  # fmt: skip
        raise MissingInput(f"there is no complete pretraining run in {run}: run `tgmae pretrain`, or {instead}.{near}")
    return run
