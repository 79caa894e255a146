"""Tables of results: the right cell, the mean over seeds, nothing mixed that is not alike."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.toml import load_experiment
from tgmae.cli import app
from tgmae.paper_numbers import TABLES
from tgmae.result_tables import find_results, markdown, paper_tables, run_table
from train.evaluation.results import Checkpoint, Evaluation, write_result

CONFIGS = Path(__file__).parent.parent.parent / "configs" / "paper"


def leave(root: Path, experiment: Experiment, kind: Any, **metrics: float) -> None:
    folder = root / experiment.name / kind
    folder.mkdir(parents=True)
    write_result(folder, experiment, Evaluation(
        kind=kind, checkpoint=Checkpoint(source="here", sha256=None), dataset="abc", metrics=metrics, views={},
        counts={}, warnings=[], seconds=1.0,
    ))  # fmt: skip


def seeded(name: str, seed: int, **changes: Any) -> Experiment:
    return Experiment.model_validate({"workspace": "w", "name": f"{name}-s{seed}", "pretrain": {"seed": seed},
                                      "finetune": {"seed": seed}, **changes})  # fmt: skip


def cells(table: str, row: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_seeds_of_a_run_are_one_row(tmp_path: Path) -> None:
    top1 = [0.25, 0.5, 0.6]
    for seed, value in enumerate(top1):
        leave(tmp_path, seeded("text", seed), "probe", top1_sgd=value, top1=0.5)
    leave(tmp_path, seeded("text", 0).model_copy(update={"name": "alone"}), "finetune", top1=0.125)
    table = run_table(find_results([tmp_path]))
    mean, spread = 100 * statistics.mean(top1), 100 * statistics.stdev(top1)
    assert cells(table, "text") == ["text", "–", f"{mean:.1f} ± {spread:.1f} (3)", "50.0 ± 0.0 (3)", "–"]
    assert cells(table, "alone") == ["alone", "12.5", "–", "–", "–"]


@pytest.mark.parametrize("change", [{"mask": {"ratio": 0.75}}, {"optim": {"epochs": 7}}])
def test_runs_of_different_configs_are_not_averaged(tmp_path: Path, change: dict[str, Any]) -> None:
    leave(tmp_path, seeded("text", 0), "probe", top1=0.1)
    leave(tmp_path, seeded("text", 1, **change), "probe", top1=0.2)
    with pytest.raises(UserError, match="different configs or data"):
        run_table(find_results([tmp_path]))


def test_a_key_that_came_later_is_at_its_default(tmp_path: Path) -> None:
    """One seed was run before an upgrade that brought a new option, the other after it."""
    for seed in range(2):
        leave(tmp_path, seeded("text", seed), "probe", top1=0.1 * seed)
    older = tmp_path / "text-s0" / "probe" / "result.json"
    content = json.loads(older.read_bytes())
    del content["experiment"]["mask"]["text_share"]
    older.write_text(json.dumps(content))
    assert "(2)" in run_table(find_results([tmp_path]))


def test_one_seed_counts_once(tmp_path: Path) -> None:
    for copy in ("a", "b"):
        leave(tmp_path / copy, seeded("text", 0), "probe", top1=0.1)
    with pytest.raises(UserError, match="two results of the run 'text' with one seed"):
        run_table(find_results([tmp_path]))


def test_the_paper_s_tables_have_its_numbers_beside_ours(tmp_path: Path) -> None:
    run = load_experiment(CONFIGS / "table2_tgm_mae_nce.toml", ["workspace=elsewhere"])
    leave(tmp_path, run, "finetune", top1=0.681)
    other = load_experiment(CONFIGS / "table3_ucf101_tgm_nce.toml")
    leave(tmp_path, other, "retrieve", **{"r@1": 0.9, "r@5": 0.95})
    shown = paper_tables(find_results([tmp_path]))
    by_title = {part.partition("\n")[0].removeprefix("## "): part for part in shown.split("\n\n## ")}
    table2 = next(part for title, part in by_title.items() if title.startswith("Table 2"))
    assert cells(table2, "TGM 0.6, both") == ["TGM 0.6, both", "67.5", "68.1", "33.4", "–"]
    assert cells(table2, "TGM 0.6, MAE") == ["TGM 0.6, MAE", "67.1", "–", "26.2", "–"]
    table3 = next(part for title, part in by_title.items() if title.startswith("Table 3"))
    assert cells(table3, "TGM, both losses, UCF101")[3:] == ["97.6", "90.0", "99.1", "95.0"]
    assert "68.1" in next(part for title, part in by_title.items() if title.startswith("Table 6b"))  # the same run


def test_every_row_of_the_paper_has_a_config() -> None:
    for rows in TABLES.values():
        for row in rows:
            assert (CONFIGS / f"{row.config}.toml").is_file(), row


def test_names_are_shown_as_text() -> None:
    assert markdown(["a"], [["x|y\nz"]]).splitlines()[-1] == "| x\\|y z |"


def test_nothing_to_show(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["table", str(tmp_path)])
    assert result.exit_code == 2 and "run finetune, probe or retrieve first" in result.output
    result = CliRunner().invoke(app, ["table", str(tmp_path / "missing")])
    assert result.exit_code == 2 and "is not a folder" in result.output
    (tmp_path / "result.json").write_text("{}")
    result = CliRunner().invoke(app, ["table", str(tmp_path)])
    assert result.exit_code == 2 and "is not a result of this version" in result.output
