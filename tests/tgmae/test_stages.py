"""Which stages an experiment asks for, and in what order."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.config import Experiment
from schemas.stage import StageRecord, write_record
from tgmae.cli import app
from tgmae.run import NEEDS, Step
from tgmae.stages import STAGES

DATA = ["index", "shard"]


@pytest.mark.parametrize(
    ("stages", "asked"),
    [
        (["pretrain", "probe"], ["pretrain", "probe"]),
        (["pretrain", "finetune"], ["pretrain", "finetune"]),
        (["probe", "finetune"], ["finetune", "probe"]),
        (["retrieve", "probe"], ["probe", "retrieve"]),
        ([], []),
    ],
)
def test_training_is_done_as_asked(stages: list[str], asked: list[str]) -> None:
    experiment = Experiment.model_validate(
        {"workspace": "w", "guide": "none", "mask": {"kind": "tube"}, "stages": stages}
    )
    assert [stage.name for stage in STAGES if stage.wanted(experiment)] == [*DATA, *asked]


@pytest.mark.parametrize(
    ("guide", "mask", "contrastive", "wanted"),
    [
        ("text", "top-k", 0.0, ["caption", "guide"]),
        ("text", "top-k", 1.0, ["caption", "guide"]),
        ("embeddings", "tube", 1.0, ["caption", "guide"]),
        ("motion-vectors", "motion-vectors", 0.0, ["guide"]),
        ("motion-vectors", "motion-vectors", 1.0, ["caption", "guide", "embed"]),
        ("optical-flow", "optical-flow", 0.0, ["guide"]),
        ("none", "tube", 0.0, []),
        ("none", "tube", 1.0, ["caption", "embed"]),
        ("quiet:Guide", "top-k", 0.0, ["guide"]),
        ("speaking:Guide", "top-k", 0.0, ["caption", "guide"]),
    ],
)
def test_captions_are_made_for_those_who_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guide: str, mask: str, contrastive: float, wanted: list[str]
) -> None:
    for name, needs in (("quiet", False), ("speaking", True)):
        (tmp_path / f"{name}.py").write_text(f"class Guide:\n    needs_captions = {needs}\n    def score(self): ...")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    experiment = Experiment.model_validate(
        {"workspace": "w", "guide": guide, "mask": {"kind": mask}, "objective": {"contrastive": contrastive},
         "stages": []}
    )  # fmt: skip
    names = [stage.name for stage in STAGES if stage.wanted(experiment)]
    assert sorted(names) == sorted([*DATA, *wanted])


def test_embeddings_are_a_guide_of_their_own(tmp_path: Path) -> None:
    """Next to the guide that the masks read."""
    experiment = Experiment.model_validate(
        {"workspace": str(tmp_path), "guide": "motion-vectors", "captions": "oracle", "objective": {"contrastive": 1}}
    )
    for name, stage in (("clips", "shard"), ("captions/oracle", "caption")):
        write_record(
            tmp_path / name,
            StageRecord(stage=stage, fingerprint="0", config={}, inputs={"manifest": "M"}, output=stage.upper(),
                        counts={}, failed={}, tools={}, seconds=0.0),
        )  # fmt: skip
    specs = {stage.name: stage.spec(experiment) for stage in STAGES if stage.name in ("guide", "embed")}
    assert {name: spec.folder.name for name, spec in specs.items()} == {
        "guide": "motion-vectors",
        "embed": experiment.text_name,
    }
    assert specs["guide"].inputs == {"clips": "SHARD"}
    assert specs["embed"].inputs == {"clips": "SHARD", "captions": "CAPTION"}


@pytest.mark.parametrize("guide", ["embeddings", "motion-vectors", "optical-flow", "flow-magnitude"])
def test_any_guide_is_made_by_itself(tmp_path: Path, guide: str) -> None:
    """Also one that the config's mask could not use."""
    result = CliRunner().invoke(app, ["guide", str(tmp_path), "--guide", guide])
    assert result.exit_code == 2 and "run `tgmae shard" in result.output


def test_what_a_stage_reads_comes_before_it() -> None:
    names = [stage.name for stage in STAGES]
    for number, name in enumerate(names):
        assert {need for need in NEEDS[name] if need in names} <= {*names[:number]}


def test_a_plan_names_commands_that_there_are() -> None:
    """`embed` is no command."""
    line = Step("embed", "build", "no output yet (w/guides/embeddings-blip2)").line("would be")
    assert line.endswith("(w/guides/embeddings-blip2) (made by `tgmae guide WORKSPACE --guide embeddings`)")
    assert "made by" not in Step("guide", "build", "no output yet").line("is") + Step("embed", "current", "w").line(
        "is"
    )
