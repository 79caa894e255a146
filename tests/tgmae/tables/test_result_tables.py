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
from tgmae.shipped_files import CONFIGS
from tgmae.tables.paper_numbers import TABLES
from tgmae.tables.result_tables import find_results, markdown, paper_tables, run_table
from tgmae.tables.run_conditions import wilson
from train.evaluation.results import Checkpoint, Evaluation, write_result

PAPER = CONFIGS / "paper"


def leave(
    root: Path,
    experiment: Experiment,
    kind: Any,
    *,
    source: str = "here",
    counts: dict[str, int] | None = None,
    views: dict[str, int | str] | None = None,
    **metrics: float,
) -> None:
    folder = root / experiment.name / kind
    folder.mkdir(parents=True)
    write_result(folder, experiment, Evaluation(
        kind=kind, checkpoint=Checkpoint(source=source, sha256=None), dataset="abc", metrics=metrics,
        views=views or {}, counts=counts or {}, warnings=[], seconds=1.0,
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
    facts = ["top-k 0.6, guide text, captions blip2", "200", "–"]
    assert cells(table, "text") == ["text", *facts, "–", f"{mean:.1f} ± {spread:.1f} (3)", "50.0 ± 0.0 (3)", "–"]
    assert cells(table, "alone") == ["alone", *facts, "12.5", "–", "–", "–"]
    assert "cannot be compared" not in table


def test_what_a_number_is_to_be_read_beside(tmp_path: Path) -> None:
    """Chance, the encoder untrained, training from scratch, the number of test videos and their interval."""
    run = Experiment(workspace="w", name="text")
    counts = {"test": 160, "classes": 8}
    metrics = {"top1": 0.15, "top1_untrained": 0.125, "top1_sgd": 0.2}
    leave(tmp_path, run, "probe", counts=counts, **metrics)
    scratch = run.model_copy(update={"name": "scratch", "stages": ("finetune",)})
    leave(tmp_path, scratch, "finetune", counts=counts, source="untrained", top1=0.5)
    table = run_table(find_results([tmp_path]))
    assert cells(table, "run") == ["run", "trained with", "epochs", "test videos", "finetune", "linear probe, SGD",
                                   "linear probe, L-BFGS",
                                   "k-NN"]  # fmt: skip
    assert cells(table, "text")[3:] == ["160", "–", "20.0 [14.5, 26.9]", "15.0 [10.3, 21.3]", "–"]
    assert cells(table, "text, untrained encoder")[1:] == ["nothing", "–", "160", "–", "–", "12.5 [8.2, 18.5]", "–"]
    assert cells(table, "scratch")[:5] == ["scratch", "nothing: supervised from scratch", "–", "160",
                                           "50.0 [42.3, 57.7]"]  # fmt: skip
    assert cells(table, "chance")[4:] == ["12.5", "12.5", "12.5", "12.5"]


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("probe", {"optim": {"epochs": 800}}, "pretraining epochs: 800, elsewhere 200"),
        ("finetune", {"finetune": {"epochs": 7, "warmup_epochs": 0}}, "fine-tuning epochs: 7, elsewhere 100"),
        ("probe", {"probe": {"test_split": "val"}}, "probe splits: train/val, elsewhere train/by default"),
        ("retrieve", {}, "retrieve views: temporal 4, elsewhere temporal 2"),
    ],
)
def test_runs_that_cannot_be_compared_are_marked(tmp_path: Path, kind: Any, change: Any, said: str) -> None:
    for name in ("a", "b"):
        leave(tmp_path, Experiment(workspace="w", name=name), kind, views={"temporal": 2}, top1=0.1)
    other = Experiment.model_validate({"workspace": "w", "name": "other", **change})
    leave(tmp_path, other, kind, views={"temporal": 2 if change else 4}, top1=0.9)
    table = run_table(find_results([tmp_path]))
    assert cells(table, "other *") and cells(table, "a")[0] == "a"
    assert f"* other cannot be compared with the others: {said}" in table.splitlines()


@pytest.mark.parametrize(("share", "videos"), [(0.0, 10), (0.15, 160), (0.5, 1), (1.0, 1000)])
def test_the_interval_is_wilson_s(share: float, videos: int) -> None:
    """The ends are where the share is as far from the truth as 1.96 of its deviations there."""
    for end in wilson(share, videos):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(1.96 * (end * (1 - end) / videos) ** 0.5)


def test_our_number_beside_the_paper_s_is_marked_where_its_epochs_are_others(tmp_path: Path) -> None:
    run = load_experiment(PAPER / "table2_tgm_mae_nce.toml", ["workspace=elsewhere", "optim.epochs=3",
                                                                "optim.warmup_epochs=0"])  # fmt: skip
    leave(tmp_path, run, "probe", top1_sgd=0.1)
    shown = paper_tables(find_results([tmp_path]))
    assert "10.0 *" in shown and "linear probe, SGD: optim.epochs 3, the paper's config has" in shown


@pytest.mark.parametrize("change", [{"mask": {"ratio": 0.75}}, {"optim": {"epochs": 7, "warmup_epochs": 0}}])
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
    run = load_experiment(PAPER / "table2_tgm_mae_nce.toml", ["workspace=elsewhere"])
    leave(tmp_path, run, "finetune", top1=0.681)
    other = load_experiment(PAPER / "table3_ucf101_tgm_nce.toml")
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
            assert (PAPER / f"{row.config}.toml").is_file(), row


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
