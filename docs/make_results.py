#!/usr/bin/env python3
"""Writes docs/results.md from the JSON under bench/results: a section for each file that is there."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tgmae.demo.world_figure import world_figure
from tgmae.demo.world_table import BOUNDS, TABLES
from tgmae.tables.result_tables import markdown

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "bench" / "results"
PAGE = HERE / "results.md"
HEAD = """\
<!-- Written by docs/make_results.py from bench/results/*.json: change the programs that make those. -->
# Results

Per cent unless said otherwise; mean ± standard deviation over seeds, their number in brackets. Nothing was tuned to
make one row win, and orderings stand as they were found.
"""
Run = dict[str, Any]
PROBES = {
    "linear": "linear probe", "knn": "k-NN", "motion": "motion, linear", "text_to_video": "text to video R@5",
    "transfer": "second world, linear", "transfer_knn": "second world, k-NN", "finetune": "fine-tuned",
}  # fmt: skip


def main() -> None:
    parts = {
        "demo": demo,
        "world_table": world_table,
        "map_precision": map_precision,
        "real_clips": real_clips,
        "gpu_world": gpu_world,
    }
    text = [HEAD]
    for name, section in parts.items():
        file = RESULTS / f"{name}.json"
        if file.is_file():
            text.append(section(json.loads(file.read_bytes())))
    notes = HERE / "results_notes.md"
    if notes.is_file():
        text.append(notes.read_text(encoding="utf-8"))
    PAGE.write_text("\n".join(text), encoding="utf-8")
    print(f"wrote {PAGE}")


def demo(found: Any) -> str:
    runs = found["runs"]
    lines = [
        ("what is seen, linear probe", "probe", "untrained", "probe_untrained"),
        ("what is seen, k-NN", "knn", "untrained", "knn_untrained"),
        ("text to video R@5", "text_to_video", "random ranking", "text_to_video_chance"),
        ("IoU of the text mask with the object", "mask_iou", "random mask", "mask_iou_random"),
    ]
    rows = [[title, spread(runs, key), f"{spread(runs, other)} {what}"] for title, key, what, other in lines]
    rows.append(["reconstruction error of test videos", spread(runs, "reconstruction", 1, 3),
                 f"{spread(runs, 'reconstruction_zero', 1, 3)} predicting zero"])  # fmt: skip
    seeds = ", ".join(str(run["seed"]) for run in runs)
    seconds = ", ".join(f"{run['seconds']:.0f}" for run in runs)
    return f"""## The demo

    python -m tgmae.demo.seeds --seeds {seeds.replace(",", "")}

World and training seeds {seeds}; {seconds} s on {found["machine"]["cores"]} cores, load average up to
{found["load_average"]}. {found.get("note", "")}
Chance is {100 * runs[0]["chance"]:.1f} for what is seen.

{markdown(["", "this run", "compared with"], rows)}
"""


def world_table(found: Any) -> str:
    runs, about = found["runs"], found["about"]
    world_figure(runs, HERE / "world_table.png")
    there = {run["row"] for run in runs}
    updates = max(run.get("updates", 0) for run in runs)
    text = [
        f"""## The paper's comparisons in miniature

    make world-table

{about["videos"]} videos of world {about["world_seed"]}, a fifth of them to test on; {updates} updates a run, beside
configs/demo.toml: `{" ".join(about["overrides"])}`.

![Linear probe of what is seen, for each way to mask, with and without the contrastive loss](world_table.png)
"""
    ]
    for title, rows in (("Bounds", BOUNDS), *TABLES.items()):
        known = [row for row in rows if row.name in there]
        if known:
            text.append(f"### {title}\n\n{table([(row.title, of(runs, row.name)) for row in known])}\n")
    return "\n".join(text)


def map_precision(found: Any) -> str:
    runs = found["runs"]
    rows = [(of(runs, name)[0]["title"] + (", MAE" if name.endswith("-mae") else ", MAE + contrastive"),
             of(runs, name)) for name in dict.fromkeys(run["row"] for run in runs)]  # fmt: skip
    columns = {"object_hidden": "object hidden", "linear": "linear probe", "knn": "k-NN"}
    return f"""## How good must a map be?

    python -m tgmae.demo.map_precision

Mask ratio 0.6; from chance to the maps of the small encoder, by the share of the hidden tokens that scores choose, and
by noise on the maps.

![Linear probe by the share of the object that masks hide](map_precision.png)

{table(rows, columns)}
"""


def real_clips(found: Any) -> str:
    about, runs = found["about"], found["runs"]
    rows = [(name, of(runs, name)) for name in dict.fromkeys(run["row"] for run in runs)]
    columns = {"linear": "linear probe", "linear_sgd": "linear probe, SGD", "knn": "k-NN", "retrieval": "retrieval R@1",
               "finetune_few": f"fine-tuned from {about['few']} videos a class"}  # fmt: skip
    folder = f"../shared/{about['data']}"
    command = ["python bench/real_clips.py", f"--data {folder}", f"--list {folder}/list.csv",
               *(f"--more ../shared/{name}" for name in about["more_data"]), f"--size {about['size']}",
               f"--epochs {about['epochs']}", *(f"--set {override}" for override in about["set"])]  # fmt: skip
    updates = max(run["updates"] for run in runs)
    uses = {"train": "to train on", "test": "to test on", "pretraining alone": "for pretraining alone"}
    videos = ", ".join(f"{about['videos'][split]} {use}" for split, use in uses.items() if split in about["videos"])
    return f"""## Real clips

    {" ".join(command)}

{about["classes"]} classes of UCF101; videos: {videos}; {about["more"]} of other data to pretrain on. {updates} updates
of the tiny model at {about["size"]} px. No text masks: CLIP's weights cannot be fetched here.

{table(rows, columns)}
"""


def gpu_world(found: Any) -> str:
    about = found["about"]
    runs = [run for run in found["runs"] if "failed" not in run]
    rows = [(name, of(runs, name)) for name in dict.fromkeys(run["row"] for run in runs)]
    columns = {"motion": "motion, linear", "motion_knn": "motion, k-NN",
               "seen": "seen, linear", "seen_knn": "seen, k-NN",
               "motion_untrained": "motion, untrained", "seen_untrained": "seen, untrained",
               "linear": "real clips, linear", "knn": "real clips, k-NN"}  # fmt: skip
    lost = [f"{run['row']}: {run['failed']} ({run['reason']})" for run in found["runs"] if "failed" in run]
    return f"""## On one GPU

    make gpu-world-data, then on the GPU machine: make gpu-world

{about["card"]}, torch {about["torch"]}: {about["epochs"]} epochs of ViT-S a run. The row "control" is trained
from scratch on motions. {"Not done: " + "; ".join(lost) if lost else ""}

{table(rows, columns)}
"""


def table(rows: Sequence[tuple[str, list[Run]]], columns: dict[str, str] = PROBES) -> str:
    shown = {key: title for key, title in columns.items() if any(key in run for _, runs in rows for run in runs)}
    return markdown(["", *shown.values()], [[title, *(spread(runs, key) for key in shown)] for title, runs in rows])


def of(runs: Iterable[Run], name: str) -> list[Run]:
    return [run for run in runs if run["row"] == name]


def spread(runs: Sequence[Run], key: str, scale: float = 100, digits: int = 1) -> str:
    values = [scale * run[key] for run in runs if run.get(key) is not None]
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f} ({len(values)})"


if __name__ == "__main__":
    main()
