"""The demo's comparison of caption sources, on a small workspace: every set is made and measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from schemas.config import Ray
from schemas.toml import load_experiment
from tgmae.demo.caption_sources import SETS, compare_sources, table


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_source_is_made_and_measured(finished: Path, world: Path, tmp_path: Path) -> None:
    before = load_experiment(finished)
    shutil.copytree(before.workspace, tmp_path / "workspace")
    experiment = before.model_copy(update={"workspace": str(tmp_path / "workspace"), "ray": Ray(address="none")})
    found = compare_sources(experiment, world / "truth", say=lambda line: None)
    assert list(found) == list(SETS) == ["blip2", "oracle", "llm", "blip2+llm"]
    counts = {name: (values["captions"], values["different"]) for name, values in found.items()}
    assert counts["blip2"][0] == 72 and counts["oracle"] == (24, 6) and counts["llm"] == (72, 18)
    assert counts["blip2+llm"] == (144, counts["blip2"][1] + 18)
    for values in found.values():
        assert values["object_masked"] > 0.9 > 0.75 > values["object_masked_random"]
    assert min(values["mask_iou"] for values in found.values()) > 0.6 > 0.3 > found["llm"]["mask_iou_random"]
    rows = table(found).rows
    assert [row[0] for row in rows] == ["blip2 (small BLIP-2)", "oracle (label)", "llm (written by hand)",
                                        "blip2+llm (BLIP-2 and by hand)", "a random mask"]  # fmt: skip
    assert {len(row) for row in rows} == {len(table(found).header)}
