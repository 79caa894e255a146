"""Runs compared on the embedded world: rows of overrides, seeds, and what each run's encoder came to.

Every run is one of `tgmae run`, so a comparison that is stopped resumes, and rows share their data. Runs are trained
side by side, one a core: models this small train faster with one thread each than one after another.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.runtime.ray_session import shared_ray
from pipeline.world.write import write_world
from schemas.atomic import write_json
from schemas.config import Experiment
from schemas.foreign_text import shown
from schemas.signals import end_with_parent, shell_status
from schemas.workspace import Workspace
from tgmae.demo.demo import SIZE, TEST_SHARE, VIDEOS, demo_experiment
from tgmae.demo.truth_labels import probe_axis, write_motions
from tgmae.run import DATA, run
from tgmae.stages import start_trainer
from train.__main__ import main as train
from train.engine.metrics import FILE, read
from train.evaluation.results import FILE as RESULT
from train.evaluation.results import metrics_of

BASE = (
    'stages=["pretrain", "probe"]', "clip.repeats=4", "optim.epochs=4", "optim.warmup_epochs=0.4", "probe.views=1",
    "probe.untrained=false", "pretrain.log_every=5",
)  # fmt: skip
"""Next to configs/demo.toml: 240 updates of 64 clips, about a minute of one core."""


@dataclass(frozen=True)
class Row:
    """One line of a table: its name (of the runs, too), what a reader is told, and what it changes.

    {folder} in an override is the comparison's (`Place`).
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a comparison's world, workspace and results are."""

    folder: Path
    results: Path
    videos: int = VIDEOS
    size: int = SIZE
    world_seed: int = 0

    @property
    def world(self) -> Path:
        return self.folder / "world"

    def draw(self) -> None:
        """The world, whose folders say what is seen, and next to it motions.csv: the same videos labelled by motion."""
        write_world(self.world, videos=self.videos, test_share=TEST_SHARE, size=self.size, seed=self.world_seed)
        write_motions(self.world / "truth", self.folder / "motions.csv")

    def experiment(self, row: Row, seed: int, base: Sequence[str] = BASE) -> Experiment:
        seeded = (f'name="{row.name}-s{seed}"', f"pretrain.seed={seed}", f"finetune.seed={seed}")
        changes = [override.replace("{folder}", str(self.folder)) for override in row.overrides]
        return demo_experiment(self.folder, None, [*base, *changes, *seeded])


class Extra:
    """What a comparison measures of a run next to `measured`; goes to other processes."""

    def prepare(self, base: Sequence[str]) -> None:
        """Makes what the measurements of all runs share, before the first."""

    def of(self, experiment: Experiment, base: Sequence[str]) -> dict[str, float]:
        return {}


def options(description: str, rows: Sequence[Row], results: Path, base: Sequence[str] = BASE) -> argparse.Namespace:
    """The command line that comparisons share: `place`, `rows`, `seeds` and `base`, next to what it is made of."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("work/world"), help="of the world, its runs and results")
    parser.add_argument("--seeds", type=int, default=3, help="of training: 0, 1, ...")
    parser.add_argument("--rows", nargs="+", help="only these", choices=[row.name for row in rows])
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for all rows, such as optim.epochs=2")
    parser.add_argument("--videos", type=int, default=VIDEOS, help="of the world")
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs trained at a time")
    parser.add_argument("--results", type=Path, default=results)
    given = parser.parse_args()
    given.place = Place(given.folder, given.results, videos=given.videos, world_seed=given.world_seed)
    given.rows = [row for row in rows if not given.rows or row.name in given.rows]
    given.base = (*base, *given.set)
    return given


def compare(
    place: Place,
    rows: Sequence[Row],
    seeds: int,
    base: Sequence[str] = BASE,
    *,
    jobs: int = 1,
    extra: Extra | None = None,
) -> list[dict[str, Any]]:
    """Every row with seed 0, 1, ...: first the data that rows share, then the runs, `jobs` at a time.

    place.results is written again after each run, in the order of seeds and rows. Equal results of an earlier call are
    found current by `tgmae run`.
    """
    extra = extra or Extra()
    place.draw()
    with shared_ray():
        for row in rows:
            run(place.experiment(row, 0, base), partial(print, f"{row.name}:"), only=DATA)
    extra.prepare(base)
    wanted = [partial(compared, place, row, seed, base, extra) for seed in range(seeds) for row in rows]
    runs: list[dict[str, Any]] = []
    for runs in side_by_side(wanted, jobs):
        write_json(place.results, {"about": about(place, base), "runs": runs})
    return runs


def side_by_side(wanted: Sequence[Callable[[], dict[str, Any]]], jobs: int) -> Iterator[list[dict[str, Any]]]:
    """Calls all of them, `jobs` at a time in processes with a fair share of the cores' threads; after each, the results
    so far in the order of `wanted`. One that fails keeps none of the others from its result; its error is raised last.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    found: dict[int, dict[str, Any]] = {}
    failed: list[BaseException] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(threads,)) as pool:
        numbers = {pool.submit(call): number for number, call in enumerate(wanted)}
        for done in as_completed(numbers):
            if error := done.exception():
                print(f"a run failed, the others go on: {shown(str(error))}", file=sys.stderr, flush=True)
                failed.append(error)
                continue
            found[numbers[done]] = done.result()
            print(f"{len(found)} of {len(wanted)} runs: {json.dumps(done.result())}", file=sys.stderr, flush=True)
            yield [found[number] for number in sorted(found)]
    if failed:
        raise failed[0]


def _begin(threads: int) -> None:
    """In each process of the pool. Its trainers inherit how many threads they have, and with one (more do not survive
    it) are forked: a run of two minutes would spend 15 seconds on importing torch for each of its steps."""
    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    if threads == 1:
        start_trainer.set(_forked)


def _forked(arguments: Sequence[str]) -> int:
    from train import finetune, pretrain  # noqa: F401  for the trainers, which need not then

    trainer = multiprocessing.get_context("fork").Process(target=_train, args=(arguments,))
    trainer.start()
    try:
        trainer.join()
    except KeyboardInterrupt:  # reached the trainer, too
        trainer.join()
        raise
    assert trainer.exitcode is not None, "it was waited for"
    return shell_status(trainer.exitcode)


def _train(arguments: Sequence[str]) -> None:
    sys.exit(train([*arguments, "--end-with-parent"]))


def compared(place: Place, row: Row, seed: int, base: Sequence[str], extra: Extra) -> dict[str, Any]:
    """One run, trained if need be, and what was measured of it."""
    experiment, started = place.experiment(row, seed, base), time.perf_counter()
    run(experiment, partial(print, f"{row.name}, seed {seed}:"))
    entry = {"row": row.name, "title": row.title, "seed": seed, **measured(experiment, place.world / "truth")}
    return {**entry, **extra.of(experiment, base), "seconds": round(time.perf_counter() - started, 1)}


def measured(experiment: Experiment, truth: Path) -> dict[str, Any]:
    """Of what a run left: the probes of both axes, retrieval, fine-tuning and the last losses, where there are any."""
    folder = Workspace(Path(experiment.workspace)).run(experiment.name)
    found: dict[str, Any] = {}
    for kind, metrics in {
        "probe": {"top1": "linear", "top1_knn": "knn", "top1_untrained": "linear_untrained",
                  "top1_knn_untrained": "knn_untrained", "chance": "chance"},
        "retrieve": {"text_to_video_r@5": "text_to_video", "r@1": "video_to_video"},
        "finetune": {"top1": "finetune"},
    }.items():  # fmt: skip
        if kind in experiment.stages and (folder / kind / RESULT).is_file():
            had = metrics_of(experiment, kind)
            found |= {ours: round(had[theirs], 4) for theirs, ours in metrics.items() if had.get(theirs) is not None}
    if "probe" in experiment.stages:
        motion = probe_axis(experiment, truth)
        found |= {name: motion[name] for name in ("motion", "motion_knn", "motion_chance")}
    if (folder / FILE).is_file():
        lines = read(folder / FILE)
        found["updates"] = lines[-1]["step"]
        found |= {f"loss_{part}": round(lines[-1][part], 4)
                  for part in ("reconstruction", "contrastive") if part in lines[-1]}  # fmt: skip
    return found


def about(place: Place, base: Sequence[str]) -> dict[str, Any]:
    return {
        "videos": place.videos, "test_share": TEST_SHARE, "size": place.size, "world_seed": place.world_seed,
        "config": "configs/demo.toml", "overrides": list(base), "machine": platform.machine(),
        "python": platform.python_version(),
    }  # fmt: skip
