"""The comparisons: every row is an experiment that can run, and their figure and tables hold what was measured."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import UserError
from tests.tgmae.test_signals import wait_until
from tgmae.demo import map_precision, world_table
from tgmae.demo.comparison import Place, Row, side_by_side
from tgmae.demo.world_figure import MASKS, world_figure
from tgmae.stages import start_trainer


@pytest.mark.parametrize("rows", [world_table.rows(), map_precision.rows()], ids=["world_table", "map_precision"])
def test_every_row_is_an_experiment_of_its_own(rows: list[Row], tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path / "results.json")
    chosen = [place.experiment(row, seed) for row in rows for seed in (0, 1)]
    assert len({experiment.name for experiment in chosen}) == len(chosen)
    assert {experiment.pretrain.seed for experiment in chosen} == {0, 1}
    recipes = {experiment.model_dump_json(exclude={"name"}) for experiment in chosen}
    assert len(recipes) == len(chosen)  # no two rows are the same run under two names
    assert all(Path(experiment.workspace).parent == tmp_path for experiment in chosen)
    by_motion = {e.name for e in chosen if e.workspace != str(tmp_path / "workspace")}
    assert by_motion <= {"supervised-motion-s0", "supervised-motion-s1"}


def test_rows_of_several_tables_are_run_once() -> None:
    names = [row.name for row in world_table.rows()]
    in_tables = [row for table in world_table.TABLES.values() for row in table]
    assert len(names) == len(set(names)) < len(in_tables) + len(world_table.BOUNDS)
    assert {row.name: row.overrides for row in in_tables if row.name == "half-text-both"} == {
        "half-text-both": (*world_table.HALF, world_table.BOTH)
    }


def test_the_untrained_row_keeps_its_first_weights(tmp_path: Path) -> None:
    floor = next(row for row in world_table.rows() if row.name == "untrained")
    experiment = Place(tmp_path, tmp_path / "results.json").experiment(floor, 0)
    assert experiment.optim.base_lr * experiment.optim.batch_size / 256 < 1e-11


def numbered(number: int, config: Path) -> dict[str, str | int]:
    """The second fails; the others ask a trainer for what is missing."""
    if number == 1:
        raise UserError("the second does not work")
    return {
        "row": number,
        "threads": os.environ["OMP_NUM_THREADS"],
        "status": start_trainer.get()(["probe", str(config)]),
    }


@pytest.mark.medium
def test_a_run_that_fails_leaves_the_others_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their trainers, forked, have a thread each; the process that compares keeps its own number."""
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    results: list[list[dict[str, str | int]]] = []
    wanted = [partial(numbered, number, tmp_path / "missing.toml") for number in range(4)]
    with pytest.raises(UserError, match="the second"):
        for found in side_by_side(wanted, jobs=os.cpu_count() or 1):
            results.append(found)
    assert results[-1] == [{"row": number, "threads": "1", "status": 2} for number in (0, 2, 3)]
    assert os.environ["OMP_NUM_THREADS"] == "5"


def waiting(file: Path) -> dict[str, int]:
    file.write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)
    return {}


@pytest.mark.slow
def test_its_processes_end_with_it(tmp_path: Path) -> None:
    """Else those of a killed comparison go on, and the next one finds its runs locked."""
    file = tmp_path / "pid"
    program = f"""
from functools import partial
from pathlib import Path
from tests.tgmae.demo.test_comparison import side_by_side, waiting
if __name__ == "__main__":
    list(side_by_side([partial(waiting, Path({str(file)!r}))], jobs=1))
"""
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    root = str(Path(__file__).parents[3])
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py"], env={**os.environ, "PYTHONPATH": root})
    assert wait_until(lambda: file.is_file() and file.read_text() != "", 120)
    child = int(file.read_text())
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not Path(f"/proc/{child}").exists(), 120)


@pytest.mark.medium
def test_the_figure_has_a_line_for_each_way_and_loss(tmp_path: Path) -> None:
    runs = [
        {"row": f"{way}{step}-{loss}", "seed": seed, "object_hidden": step / 4 + seed / 100, "linear": 0.5}
        for way in ("share", "noise") for loss in ("mae", "both") for step in (1, 2) for seed in (0, 1)
    ]  # fmt: skip
    map_precision.figure(runs, tmp_path / "figure.png")
    image = np.asarray(Image.open(tmp_path / "figure.png"))
    colours = {tuple(pixel) for pixel in image.reshape(-1, 3) if np.ptp(pixel) > 60}
    assert len(colours) >= 4


def test_the_figure_of_the_table_moves_with_its_numbers(tmp_path: Path) -> None:
    """More seeds widen its bars, and rows that were not run are left out."""

    def drawn(*seeds: float) -> np.ndarray:
        runs = [{"row": f"{mask}{loss}", "linear": seed} for mask in MASKS for loss in ("", "-both") for seed in seeds]
        world_figure([*runs, {"row": "untrained", "linear": 0.4}], tmp_path / "figure.png")
        return np.asarray(Image.open(tmp_path / "figure.png"))

    one, three = drawn(0.5), drawn(0.2, 0.5, 0.8)
    assert one.shape == three.shape
    assert (one != three).any()
    world_figure([{"row": "tube", "linear": 0.3}], tmp_path / "figure.png")
