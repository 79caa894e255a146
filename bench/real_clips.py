"""Does pretraining teach a small encoder something on real clips? Masks compared on a folder of one's own.

    python bench/real_clips.py --data ../shared/ucf20 --list ../shared/ucf20/list.csv [--more ../shared/clips]

LIST: a csv whose columns `file`, `label` and `split_60_40` (or those that --columns names) say what is labelled; its
split "test" is judged by, "train" learned from, everything else and every video under --more is for pretraining alone.
Rows: the untrained encoder, and encoders pretrained with tube masks, motion vectors and optical flow (text masks need
CLIP's weights, which this program does not fetch). Each is judged by a linear probe, k nearest neighbours, retrieval of
training videos (other recordings, where the list's splits keep those apart) by test videos, and fine-tuning from five
videos a class. Every run is one of `tgmae run`: stopped, the program resumes. Prints JSON; --results keeps it in a
file after each run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.datasets.entry import VIDEOS
from pipeline.runtime.ray_session import shared_ray
from schemas.atomic import write_json
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.toml import load_experiment
from schemas.workspace import Workspace
from tgmae.demo.comparison import side_by_side
from tgmae.run import DATA, run
from train.engine.metrics import FILE, read
from train.evaluation.results import metrics_of

NOT_TRAINED = ("optim.epochs=1", "optim.warmup_epochs=0", "optim.base_lr=1e-12", "optim.min_lr=0")
ROWS = {
    "untrained": ("guide=none", "mask.kind=tube", *NOT_TRAINED),
    "tube": ("guide=none", "mask.kind=tube"),
    "motion-vectors": ("guide=motion-vectors", "mask.kind=motion-vectors"),
    "optical-flow": ("guide=optical-flow", "mask.kind=optical-flow"),
}
COLUMNS = ["file", "label", "split_60_40"]  # of shared/ucf20's list
FEW = 5  # videos a class to fine-tune from
SMALL = (
    "shard.max_mb=32", "motion.patch=16", "flow.patch=16", "clip.frames=8", "clip.stride=4", "clip.repeats=8",
    "mask.ratio=0.75", "model.size=tiny", "model.patch=8", "optim.batch_size=64", "optim.base_lr=8e-3",
    "optim.min_lr=8e-5", "optim.clip_grad=1", "pretrain.workers=1", "pretrain.precision=float32",
    "probe.untrained=false", "retrieve.untrained=false",
)  # fmt: skip
FINETUNE = (
    "finetune.epochs=60", "finetune.batch_size=32", "finetune.repeats=4", "finetune.base_lr=4e-3",
    "finetune.warmup_epochs=6", "finetune.drop_path=0", "finetune.mixup=0", "finetune.cutmix=0",
    'finetune.rand_augment=""', "finetune.erasing=0", "finetune.area=[0.5,1]", "finetune.temporal_views=2",
    "finetune.spatial_views=1", "finetune.clip_grad=1",
)  # fmt: skip


@dataclass(frozen=True)
class Lists:
    """The folder that all videos are below, and the two csv files of them."""

    root: Path
    all: Path
    few: Path
    videos: Sequence[tuple[Path, str, str]]  # labelled, as `listed` gives them
    more: int  # for pretraining alone, next to those


shown = partial(print, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the labelled videos")
    parser.add_argument("--list", type=Path)
    parser.add_argument("--columns", nargs=3, default=COLUMNS, metavar=("FILE", "LABEL", "SPLIT"))
    parser.add_argument("--more", type=Path, action="append", default=[], help="folders of further pretraining video")
    parser.add_argument("--folder", type=Path, default=Path("work/real_clips"), help="of the workspaces")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--size", type=int, default=64, help="px of a clip")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs trained at a time")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for all rows")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    if not (options.data and options.list):
        print("real_clips: needs --data and --list")
        return
    print(json.dumps(measure(options), indent=1))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    lists = write_lists(options)
    found: dict[str, Any] = {"about": about(options, lists), "runs": []}
    with shared_ray():
        for row in options.rows:
            for experiment in experiments(options, lists, row, 0):
                run(experiment, shown, only=DATA)
    wanted = [partial(judge, options, lists, row, seed) for seed in range(options.seeds) for row in options.rows]
    for found["runs"] in side_by_side(wanted, options.jobs):
        if options.results:
            write_json(options.results, found)
    return found


def write_lists(options: argparse.Namespace) -> Lists:
    """Writes the csv of all videos and that of a few a class into options.folder."""
    videos = listed(options.data, options.list, options.columns)
    root = Path(os.path.commonpath([options.data.resolve(), *(folder.resolve() for folder in options.more)]))
    more = [path for folder in options.more for path in sorted(folder.rglob("*")) if path.suffix.lower() in VIDEOS]
    options.folder.mkdir(parents=True, exist_ok=True)
    lists = Lists(root, options.folder / "all.csv", options.folder / "few.csv", videos, len(more))
    extra = [(path, "", "train") for path in more]
    write_list(lists.all, root, [(path, label, split or "train") for path, label, split in videos] + extra)
    write_list(lists.few, root, few_of_each(videos))
    return lists


def listed(data: Path, file: Path, columns: Sequence[str]) -> list[tuple[Path, str, str]]:
    """(video, label, split): the split is "train", "test", or "" for what is for pretraining alone (no label then).

    Errors: UserError for a list without these columns.
    """
    with file.open(encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle)
        if missing := set(columns) - set(reader.fieldnames or ()):
            raise UserError(f"{file} has no column {', '.join(sorted(missing))}: name its columns with --columns")
        rows = [tuple(row[column] for column in columns) for row in reader]
    return [(data / name, label, split) if split in ("train", "test") else (data / name, "", "")
            for name, label, split in rows]  # fmt: skip


def few_of_each(videos: Sequence[tuple[Path, str, str]]) -> list[tuple[Path, str, str]]:
    """The first FEW training videos of each class, and all test videos."""
    seen: Counter[str] = Counter()
    chosen = []
    for path, label, split in sorted(videos):
        seen[label] += split == "train"
        if split == "test" or (split == "train" and seen[label] <= FEW):
            chosen.append((path, label, split))
    return chosen


def write_list(file: Path, root: Path, videos: Sequence[tuple[Path, str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path", "label", "split"])
        writer.writerows([path.resolve().relative_to(root), label, split] for path, label, split in videos)


def experiments(options: argparse.Namespace, lists: Lists, row: str, seed: int) -> tuple[Experiment, Experiment]:
    """What pretrains, probes and retrieves, and what is fine-tuned from a few videos of that run."""
    common = [f"index.data={json.dumps(str(lists.root))}", "index.format=csv",
              f"shard.short_side={options.size * 3 // 2}", f"clip.size={options.size}", f"name={row}-s{seed}",
              f"pretrain.seed={seed}", f"finetune.seed={seed}", *SMALL, *FINETUNE]  # fmt: skip
    trained = load_experiment(None, [
        *common, f"workspace={json.dumps(str(options.folder / 'all'))}", f"index.list={json.dumps(str(lists.all))}",
        f"optim.epochs={options.epochs}", f"optim.warmup_epochs={options.epochs / 10}",
        'stages=["pretrain", "probe", "retrieve"]', *options.set, *ROWS[row],
    ])  # fmt: skip
    init = Workspace(Path(trained.workspace)).run(trained.name)
    tuned = load_experiment(None, [
        *common, f"workspace={json.dumps(str(options.folder / 'few'))}", f"index.list={json.dumps(str(lists.few))}",
        'stages=["finetune"]', "guide=none", "mask.kind=tube", f"model.init={json.dumps(str(init))}", *options.set,
    ])  # fmt: skip
    return trained, tuned


def judge(options: argparse.Namespace, lists: Lists, row: str, seed: int) -> dict[str, Any]:
    started = time.perf_counter()
    trained, tuned = experiments(options, lists, row, seed)
    run(trained, shown)
    run(tuned, shown)
    return {
        "row": row, "seed": seed,
        **result(trained, "probe", {"top1": "linear", "top1_sgd": "linear_sgd", "top1_knn": "knn", "chance": "chance"}),
        **result(trained, "retrieve", {"train_r@1": "retrieval"}),
        **result(tuned, "finetune", {"top1": "finetune_few"}),
        **last_losses(trained), "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def last_losses(experiment: Experiment) -> dict[str, Any]:
    lines = read(Workspace(Path(experiment.workspace)).run(experiment.name) / FILE)
    return {"updates": lines[-1]["step"], "loss_first": lines[0]["loss"], "loss_last": lines[-1]["loss"]}


def result(experiment: Experiment, kind: str, names: dict[str, str]) -> dict[str, float]:
    metrics = metrics_of(experiment, kind)
    return {ours: round(metrics[theirs], 4) for theirs, ours in names.items() if metrics.get(theirs) is not None}


def about(options: argparse.Namespace, lists: Lists) -> dict[str, Any]:
    splits = Counter(split or "pretraining alone" for _, _, split in lists.videos)
    return {
        "data": options.data.name, "videos": dict(splits),
        "more": lists.more, "more_data": [folder.name for folder in options.more],
        "classes": len({label for _, label, _ in lists.videos} - {""}),
        "epochs": options.epochs, "size": options.size, "overrides": [*SMALL, *FINETUNE, *options.set],
        "set": options.set,
        "few": FEW, "machine": platform.machine(), "python": platform.python_version(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
