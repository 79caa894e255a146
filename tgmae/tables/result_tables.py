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
from tgmae.runs.sweep import SEEDED
from tgmae.shipped_files import CONFIGS
from tgmae.tables.paper_numbers import FT, LP, R1, R5, TABLES, Row
from tgmae.tables.run_conditions import epochs, tested, trained_with, unlike_others, wilson
from train.evaluation.results import FILE, Result, read_result

PAPER = CONFIGS / "paper"
COLUMNS: dict[str, tuple[str, str]] = {  # column -> the kind of result and its metric
    FT: ("finetune", "top1"),
    LP: ("probe", "top1_sgd"),
    "linear probe, L-BFGS": ("probe", "top1"),
    "k-NN": ("probe", "top1_knn"),
    R1: ("retrieve", "r@1"),
    R5: ("retrieve", "r@5"),
    "text to video R@5": ("retrieve", "text_to_video_r@5"),
}
ASIDE = re.compile(r"\.[0-9a-f]{16,}$")  # a run of another config, kept under its fingerprint (see run_folder.py)
Group = list[Result]
EMPTY = "–"


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
    body, notes = [], []
    for row in rows:
        wanted = load_experiment(PAPER / f"{row.config}.toml")
        mine = [
            result
            for result in results
            if base_name(result) == wanted.name and result.experiment["index"]["format"] == wanted.index.format
        ]
        cells = [row.title]
        for name in columns:
            given = row.numbers.get(name)
            kind, metric = COLUMNS[name]
            ours = cell(mine, kind, metric)
            if changes := _off_recipe([result for result in mine if result.kind == kind], wanted):
                ours += " *"
                notes.append(f"* {row.title}, {name}: {', '.join(changes)}")
            cells += [EMPTY if given is None else f"{given:.1f}", ours]
        body.append(cells)
    return "\n\n".join([f"## {title}", markdown(head, body), *map(one_line, notes)])


def _off_recipe(results: list[Result], wanted: Experiment) -> list[str]:
    """In which epochs and views our results are not what the paper's row asks for."""
    found = {}
    for result in results:
        keys = ["optim.epochs", "finetune.epochs"] if result.kind == "finetune" else ["optim.epochs"]
        views = "temporal_views" if result.kind == "finetune" else "views"
        for key in (*keys, f"{result.kind}.{views}", f"{result.kind}.spatial_views", f"{result.kind}.test_split"):
            section, name = key.split(".")
            asked, ours = getattr(getattr(wanted, section), name), result.experiment[section].get(name)
            if ours != asked and asked != "":  # a split by default is filled in
                found[key] = f"{key} {ours}, the paper's config has {asked}"
    return list(found.values())


def run_table(results: list[Result]) -> str:
    """One row for all seeds of a run, every headline metric a column, per cent, in Markdown.

    Below the runs: the same encoders untrained, and chance, where the results hold them. A run that cannot be compared
    with the others is marked, and said to differ in what.
    """
    groups: dict[str, Group] = {}
    for result in results:
        groups.setdefault(base_name(result), []).append(result)
    groups = dict(sorted(groups.items()))
    for name, group in groups.items():
        _check_alike(name, group)
    columns = [name for name, (kind, _) in COLUMNS.items() if any(result.kind == kind for result in results)]
    unlike = unlike_others(groups)
    rows = []
    for name, group in groups.items():
        facts = [trained_with(group[0]), epochs(group[0]), str(tested(group) or "–")]
        title = f"{name} *" if name in unlike else name
        rows.append([title, *facts, *(cell(group, *COLUMNS[column]) for column in columns)])
    for name, group in groups.items():
        found = [cell(group, kind, f"{metric}_untrained") for kind, metric in (COLUMNS[column] for column in columns)]
        if any(text != EMPTY for text in found):
            rows.append([f"{name}, untrained encoder", "nothing", EMPTY, str(tested(group) or EMPTY), *found])
    chances = [_chance(results, *COLUMNS[column]) for column in columns]
    if any(text != EMPTY for text in chances):
        rows.append(["chance", EMPTY, EMPTY, EMPTY, *chances])
    notes = ["Per cent; ± standard deviation (number of seeds); [95 % interval for the number of test videos, Wilson]."]
    notes += [f"* {name} cannot be compared with the others: {'; '.join(why)}" for name, why in unlike.items()]
    head = ["run", "trained with", "epochs", "test videos", *columns]
    return "\n\n".join([markdown(head, rows), *map(one_line, notes)])


def _chance(results: list[Result], kind: str, metric: str) -> str:
    """What guessing would get: of the classes, or as the result says; several where the results differ."""
    found = set()
    for result in results:
        classes = result.counts.get("classes")
        if result.kind == kind and f"{metric}_chance" in result.metrics:
            found.add(f"{100 * result.metrics[f'{metric}_chance']:.1f}")
        elif result.kind == kind and metric.startswith("top1") and classes:
            found.add(f"{100 / classes:.1f}")
    return " / ".join(sorted(found)) or EMPTY


def one_line(text: str) -> str:
    return " ".join(text.split())


def base_name(result: Result) -> str:
    """The run's name without the seed that `tgmae sweep` puts behind it."""
    return result.name.removesuffix(f"-s{result.experiment['pretrain']['seed']}")


def cell(group: Group, kind: str, metric: str) -> str:
    """Mean ± standard deviation (number of seeds), per cent; a single run has neither spread nor number. Then the
    interval that so many test videos leave, where the result says how many, and each of them is one question."""
    those = [result for result in group if result.kind == kind and metric in result.metrics]
    values = [100 * result.metrics[metric] for result in those]
    if not values:
        return EMPTY
    mean, videos = statistics.mean(values), tested(those)
    spread = f" ± {statistics.stdev(values):.1f} ({len(values)})" if len(values) > 1 else ""
    if not videos or metric.startswith("text_to_video"):  # captions ask there
        return f"{mean:.1f}{spread}"
    low, high = wilson(mean / 100, videos)
    return f"{mean:.1f}{spread} [{100 * low:.1f}, {100 * high:.1f}]"


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
