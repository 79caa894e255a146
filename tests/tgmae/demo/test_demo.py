"""The demo: its masks find what the caption names, and its report shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.toml import load_experiment
from schemas.workspace import Workspace
from tgmae.demo.mask_accuracy import compare_masks
from tgmae.inspector.reports.summary_page import Table
from tgmae.inspector.reports.workspace_report import report_workspace


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_text_masks_find_the_named_object(finished: Path, world: Path) -> None:
    found = compare_masks(load_experiment(finished), world / "truth")
    assert found["mask_iou"] >= 0.6 > 0.2 > found["mask_iou_random"]
    assert found["object_masked"] > 0.9 > 0.75 > found["object_masked_random"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_report_answers_on_the_first_screen(finished: Path, world: Path, tmp_path: Path) -> None:
    experiment = load_experiment(finished)
    report_workspace(Workspace(Path(experiment.workspace)), tmp_path / "report.html", run=experiment.name,
                     truth=world / "truth", tables=[Table("Sources", ["set"], [["<b>"]])])  # fmt: skip
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    answers = re.findall(r"<h3>([^<]+)</h3><strong>([^<]+)</strong>", page)
    assert [question for question, _ in answers] == [
        "What was hidden?", "Did it find the object?", "Did the model learn?", "Compared with what?",
    ]  # fmt: skip
    assert answers[0][1] == "60% of the patches: top-k by text-blip2" and answers[1][1].startswith("Yes: overlap 0.")
    assert page.count("data:image/png;base64,") >= 4 and "&lt;b&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:)|<script|url[(]", page)  # nothing is loaded
