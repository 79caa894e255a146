"""What the page of a run shows: its curves, its results, who was taken for whom, the nearest neighbours."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import UserError
from schemas.foreign_text import shown
from schemas.stage import read_record
from schemas.workspace import Workspace
from tgmae.runs.inventory import INNER
from train.engine.metrics import FILE as METRICS
from train.evaluation.results import FILE as RESULT
from train.evaluation.results import read_result

POINTS = 1500  # of a curve, at most
MOST_CLASSES = 40  # of a confusion
CURVES = {  # name -> (title, names in metrics.jsonl)
    "loss": ("Loss", ("loss", "reconstruction", "contrastive", "classification")),
    "lr": ("Learning rate", ("lr",)),
    "wait": ("Share of time waiting for data", ("data_wait",)),
    "pace": ("Clips a second", ("clips_per_second",)),
    "norm": ("Gradient norm", ("grad_norm",)),
}


def curves(folder: Path) -> dict[str, Any]:
    """The curves of a metrics.jsonl: {name: {title, series: {name: [[step, value], ...]}}}, thinned evenly."""
    rows = _lines(folder / METRICS)
    every = max(-(-len(rows) // POINTS), 1)
    kept = [row for place, row in enumerate(rows) if place % every == 0 or place == len(rows) - 1]
    found: dict[str, Any] = {}
    for name, (title, wanted) in CURVES.items():
        series = {}
        for each in wanted:
            points = [[row["step"], row[each]] for row in kept
                      if isinstance(row.get(each), int | float) and math.isfinite(row[each])]  # fmt: skip
            if points and (each != "loss" or len({*wanted} & {*rows[0]}) != 2):  # one part alone is the whole
                series[each] = points
        if series:
            found[name] = {"title": title, "series": series}
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def summary(workspace: Workspace, name: str) -> dict[str, Any]:
    """State, facts and results of a run."""
    folder = workspace.run(name)
    try:
        record, trouble = read_record(folder), ""
    except UserError as error:
        record, trouble = None, str(error)
    rows = _lines(folder / METRICS)
    steps = rows[-1]["step"] if rows else 0
    results = {}
    for stage in INNER:
        if (folder / stage / RESULT).is_file():
            try:
                results[stage] = read_result(folder / stage / RESULT)
            except UserError as error:
                trouble = trouble or str(error)
    return {
        "name": name, "complete": record is not None, "steps": steps, "trouble": trouble,
        "facts": record.info if record else {}, "counts": record.counts if record else {},
        "last": rows[-1] if rows else {}, "results": results,
    }  # fmt: skip


COMPARED = {  # metric -> what it is, and the metrics or words that it is compared with
    "top1": ("Linear probe, top-1", ("top1_untrained", "chance")),
    "top1_knn": ("k nearest neighbours, top-1", ("top1_knn_untrained", "chance")),
    "top1_sgd": ("Linear probe by SGD, top-1", ("top1_sgd_untrained", "chance")),
    "r@1": ("Video to video, R@1", ("r@1_untrained",)),
    "r@5": ("Video to video, R@5", ("r@5_untrained",)),
    "text_to_video_r@1": ("Text to video, R@1", ("text_to_video_r@1_chance",)),
    "text_to_video_r@5": ("Text to video, R@5", ("text_to_video_r@5_chance",)),
}


def compared(summary_of: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of bars: what was measured, ours, and what it is compared with: [(name, value), ...]."""
    found = []
    for stage, result in summary_of["results"].items():
        for metric, (title, others) in COMPARED.items():
            if metric not in result.metrics:
                continue
            if stage == "finetune":
                title = title.replace("Linear probe", "Fine-tuning")
            bars = [("untrained" if "untrained" in other else "chance", result.metrics[other])
                    for other in others if other in result.metrics]  # fmt: skip
            found.append({"stage": stage, "title": title, "ours": result.metrics[metric], "others": bars,
                          "tested": result.counts.get("test", 0)})  # fmt: skip
    return found


def confusion(workspace: Workspace, name: str, labels: dict[int, str]) -> dict[str, Any] | None:
    """Who was taken for whom: of fine-tuning, else by the nearest training video of the retrieval; None: neither.

    {source, names, counts: [[label][prediction]]}, of the MOST_CLASSES classes with the most test videos.
    """
    folder = workspace.run(name)
    counts: dict[tuple[int, int], int] = {}
    if (folder / "finetune" / "confusion.parquet").is_file():
        source = "fine-tuning"
        for row in _rows(folder / "finetune" / "confusion.parquet", ["label", "prediction", "videos"]):
            counts[row["label"], row["prediction"]] = row["videos"]
    elif (folder / "retrieve" / "neighbours.parquet").is_file():
        source = "the nearest training video"
        for row in _rows(folder / "retrieve" / "neighbours.parquet", ["label", "gallery", "labels"]):
            if row["gallery"] == "train" and row["labels"]:
                pair = row["label"], row["labels"][0]
                counts[pair] = counts.get(pair, 0) + 1
    if not counts:
        return None
    totals: dict[int, int] = {}
    for (label, _), videos in counts.items():
        totals[label] = totals.get(label, 0) + videos
    most = sorted(sorted(totals, key=lambda label: -totals[label])[:MOST_CLASSES])
    return {
        "source": source, "left_out": len(totals) - len(most),
        "names": [shown(labels.get(label, label)) for label in most],
        "counts": [[counts.get((label, other), 0) for other in most] for label in most],
    }  # fmt: skip


def neighbours(workspace: Workspace, name: str, key: str) -> list[dict[str, Any]]:
    """The nearest neighbours of a test video in both galleries; empty: there are none."""
    path = workspace.run(name) / "retrieve" / "neighbours.parquet"
    if not path.is_file():
        return []
    return _rows(path, key=key)


def queries(workspace: Workspace, name: str, most: int = 200) -> list[tuple[str, str]]:
    """(key, video_id) of test videos whose neighbours are known, those with a wrong nearest one first."""
    path = workspace.run(name) / "retrieve" / "neighbours.parquet"
    if not path.is_file():
        return []
    rows = [row for row in _rows(path, ["key", "video_id", "label", "gallery", "labels"]) if row["gallery"] == "train"]
    rows.sort(key=lambda row: (row["labels"][:1] == [row["label"]], row["video_id"]))
    return [(row["key"], row["video_id"]) for row in rows[:most]]


def _rows(path: Path, columns: list[str] | None = None, key: str | None = None) -> list[dict[str, Any]]:
    with pq.ParquetFile(path.absolute()) as file:
        found = file.read(columns=columns)
    if key is not None:
        found = found.filter(pc.equal(found["key"], key))
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows
