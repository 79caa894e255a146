"""`tgmae table`: the results that runs left, as tables: the paper's, its numbers next to ours, or one of all runs.

A result belongs to a row of the paper when its run has the name and its dataset the format of the row's config. Runs
that differ in nothing but seeds are one row: the mean, the standard deviation, and how many they are.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.toml import load_experiment
from tgmae.paper_numbers import FT, LP, R1, R5, TABLES, Row
from tgmae.sweep import SEEDED
from train.evaluation.results import FILE, Result, read_result

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "paper"
COLUMNS: dict[str, tuple[str, str]] = {  # column -> the kind of result and its metric
    FT: ("finetune", "top1"),
    LP: ("probe", "top1_sgd"),
    "L-BFGS": ("probe", "top1"),
    "k-NN": ("probe", "top1_knn"),
    R1: ("retrieve", "r@1"),
    R5: ("retrieve", "r@5"),
    "text to video R@5": ("retrieve", "text_to_video_r@5"),
}
ASIDE = re.compile(r"\.[0-9a-f]{16,}$")  # a run of another config, kept under its fingerprint (train/engine/resume.py)
Group = list[Result]


def find_results(folders: Iterable[Path]) -> list[Result]:
    """All results under the folders, a workspace or several, in order of their paths.

    Errors: UserError for a folder that is missing, a file that is not a result, and when there is none at all.
    """
    paths: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: name workspaces, or a folder that holds some")
        paths += sorted(path for path in folder.rglob(FILE) if not any(map(ASIDE.search, path.parts)))
    if not paths:
        raise UserError(f"no {FILE} under {', '.join(map(str, folders))}: run finetune, probe or retrieve first")
    return [read_result(path) for path in paths]


def paper_tables(results: list[Result]) -> str:
    """Tables 1 to 6b in Markdown, per cent: the paper's number, then ours; a dash where there is no result."""
    return "\n\n".join(_paper_table(title, rows, results) for title, rows in TABLES.items())


def _paper_table(title: str, rows: list[Row], results: list[Result]) -> str:
    columns = [name for name in COLUMNS if any(name in row.numbers for row in rows)]
    head = ["", *(text for name in columns for text in (f"{name}, paper", "ours"))]
    body = []
    for row in rows:
        wanted = load_experiment(CONFIGS / f"{row.config}.toml")
        mine = [
            result
            for result in results
            if base_name(result) == wanted.name and result.experiment["index"]["format"] == wanted.index.format
        ]
        cells = [row.title]
        for name in columns:
            given = row.numbers.get(name)
            cells += ["–" if given is None else f"{given:.1f}", cell(mine, *COLUMNS[name])]
        body.append(cells)
    return f"## {title}\n\n{markdown(head, body)}"  # fmt: skip


def run_table(results: list[Result]) -> str:
    """One row for all seeds of a run, every headline metric a column, per cent, in Markdown."""
    groups: dict[str, Group] = {}
    for result in results:
        groups.setdefault(base_name(result), []).append(result)
    columns = [name for name, (kind, _) in COLUMNS.items() if any(result.kind == kind for result in results)]
    rows = []
    for name, group in sorted(groups.items()):
        _check_alike(name, group)
        rows.append([name, *(cell(group, *COLUMNS[column]) for column in columns)])
    return markdown(["run", *columns], rows)


def base_name(result: Result) -> str:
    """The run's name without the seed that `tgmae sweep` puts behind it."""
    return result.name.removesuffix(f"-s{result.experiment['pretrain']['seed']}")


def cell(group: Group, kind: str, metric: str) -> str:
    """Mean ± standard deviation (number of seeds), per cent; a single run has neither spread nor number."""
    values = [100 * result.metrics[metric] for result in group if result.kind == kind and metric in result.metrics]
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} ({len(values)})"


def _check_alike(name: str, group: Group) -> None:
    """Errors: UserError when results under one name are of different configs or data: their mean means nothing."""
    for kind in {result.kind for result in group}:
        same = [result for result in group if result.kind == kind]
        if len({_recipe(result) for result in same}) > 1:
            raise UserError(f"the {kind} results of the runs {name!r} are of different configs or data: give one of "
                            "the folders alone, or the runs different names")  # fmt: skip
    if len({(result.kind, result.experiment["pretrain"]["seed"]) for result in group}) < len(group):
        raise UserError(f"there are two results of the run {name!r} with one seed: give one of the folders alone")


def _recipe(result: Result) -> str:
    """What a result is of, seeds and names aside; keys that came with a later version at their defaults."""
    try:
        experiment = Experiment.model_validate(result.experiment).model_dump(mode="json")
    except ValidationError:  # of a version whose keys are no longer known: as it stands
        experiment = result.experiment
    config: dict[str, Any] = json.loads(json.dumps(experiment))
    for section in SEEDED:
        config[section].pop("seed")
    for key in ("name", "workspace", "stages"):
        config.pop(key, None)
    return json.dumps([config, result.dataset], sort_keys=True)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table that reads well as text, too. Names are untrusted: a bar would open a column."""
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
             for row in cells]  # fmt: skip
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
