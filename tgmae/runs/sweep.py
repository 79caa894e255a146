"""`tgmae sweep`: a list of experiments, each over several seeds, one after the other or side by side on a Ray cluster.

What is done already is found current and skipped, as `tgmae run` does. An experiment that fails is reported at the end
and does not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.toml import load_experiment
from tgmae.run import DATA, run

SEEDED = ("pretrain", "finetune")  # sections that have a seed


def experiments(configs: Sequence[Path], overrides: Sequence[str], seeds: int) -> list[Experiment]:
    """Each config with each of the seeds 0, 1, ..., named NAME-s0, NAME-s1, ...; one seed leaves config and name alone.

    Seeds are the outer loop, so that a sweep stopped half-way has something of every config.
    Errors: UserError for two experiments of one name in one workspace.
    """
    chosen = []
    for seed in range(seeds):
        for path in configs:
            experiment = load_experiment(path, overrides)
            if seeds > 1:
                name = f"{experiment.name}-s{seed}"
                more = [f'name="{name}"', *(f"{section}.seed={seed}" for section in SEEDED)]
                experiment = load_experiment(path, [*overrides, *more])
            chosen.append(experiment)
    places = [(experiment.workspace, experiment.name) for experiment in chosen]
    twice = {place for place in places if places.count(place) > 1}
    if twice:
        raise UserError(
            f"several experiments are called {', '.join(sorted(name for _, name in twice))} in one workspace"
        )
    return chosen


def sweep(chosen: Sequence[Experiment], say: Callable[[str], None] = print) -> list[str]:
    """Runs them; a line for each that failed. On a cluster (ray.address) their trainings run side by side."""
    failed: list[str] = []
    ready: list[Experiment] = []
    for number, experiment in enumerate(chosen, 1):
        say(f"== {experiment.name} in {experiment.workspace} ({number} of {len(chosen)})")
        try:
            run(experiment, say, only=DATA if experiment.ray.cluster else None)
        except UserError as error:
            say(f"error: {error}")
            failed.append(f"{experiment.name}: {error}")
        else:
            ready.append(experiment)
    clustered = [experiment for experiment in ready if experiment.ray.cluster]
    if clustered:
        from tgmae.cluster import side_by_side

        failed += side_by_side(clustered, say)
    return failed
