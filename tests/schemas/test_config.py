"""The experiment config: read, overridden, kept, and its mistakes answered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.toml import all_keys, dump, load_experiment


def load(*overrides: str) -> Experiment:
    return load_experiment(None, overrides, workspace="work")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_dumped_config_reads_back_equal(tmp_path: Path) -> None:
    experiment = load("mask.ratio=0.75", 'name="a \\"quoted\\" \\\\ name"', "clip.scales=[1.0, 0.5]", "clip.flip=false")
    assert load_experiment(write(tmp_path / "kept.toml", dump(experiment))) == experiment


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_any_text_survives_the_dump(text: str) -> None:
    import tempfile

    experiment = load_experiment(None, workspace=text)
    with tempfile.TemporaryDirectory() as folder:
        assert load_experiment(write(Path(folder) / "kept.toml", dump(experiment))).workspace == text


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("mask.ratio=0.75", 0.75),
        ("mask.ratio = 0.75", 0.75),
        ("mask.kind=tube", "tube"),
        ('mask.kind="tube"', "tube"),
        ("clip.scales=[1, 0.5]", (1.0, 0.5)),
        ("clip.flip=false", False),
        ("caption.blip2.prompt=a photo of", "a photo of"),
    ],
)
def test_overrides_take_toml_or_plain_text(override: str, value: object) -> None:
    found: object = load(override)
    for name in override.partition("=")[0].strip().split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("mask.ratoi=0.5", "did you mean 'mask.ratio'"),
        ("ratio=0.5", "did you mean 'mask.ratio'"),
        ("pretrain.ratio=0.5", "did you mean 'mask.ratio'"),
        ("optim.batchsize=8", "did you mean 'optim.batch_size'"),
        ("mask.kind=topk", "Did you mean 'top-k'?"),
        ("mask.ratio=1", "less than 1"),
        ("mask.decoder_ratio=0.3", "multiple of 0.25"),
        ("mask.ratio", "section.key=value"),
        ("guide=none", "ranks score maps, which guide = 'none' has not"),
        ("guide=embeddings", "ranks score maps, which guide = 'embeddings' has not"),
        ("guide=optical-flow", "ranks score maps, which guide = 'optical-flow' has not"),
        ("guide=texts", "Did you mean 'text'?"),
        ("mask.kind=motion-box", "ranks motion, guide = 'text' scores something else"),
        ("mask.kind=optical-flow", "it needs guide = 'optical-flow'"),
        ("clip.size=100", "not a multiple of model.patch"),
        ("clip.frames=15", "not a multiple of model.tubelet"),
        ("optim.accumulate=3", "not a multiple of accumulate x processes"),
        ("objective.reconstruction=0", "nothing to learn"),
        ("captions=3", "valid string"),
        ('captions="blip2+orakle"', "Did you mean 'oracle'? Allowed: blip, blip2"),
    ],
)
def test_mistakes_are_answered_with_what_is_known(override: str, hint: str) -> None:
    with pytest.raises(UserError, match="on the command line|section.key=value") as raised:
        load(override)
    assert hint in str(raised.value)


def test_a_config_may_start_from_another(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", 'workspace = "w"\n[mask]\nkind = "tube"\nratio = 0.9\n')
    (tmp_path / "rows").mkdir()
    row = write(tmp_path / "rows" / "row.toml", 'base = "../base.toml"\n[mask]\nratio = 0.75\n')
    mask = load_experiment(row).mask
    assert (mask.kind, mask.ratio) == ("tube", 0.75)


def test_a_base_that_leads_back_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", 'base = "b.toml"')
    write(tmp_path / "b.toml", 'base = "a.toml"')
    with pytest.raises(UserError, match="leads back to itself"):
        load_experiment(tmp_path / "a.toml")


@pytest.mark.parametrize(("text", "said"), [("a = ", "is not TOML"), (None, "cannot read the config")])
def test_an_unreadable_config_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "x.toml"
    if text is not None:
        write(path, text)
    with pytest.raises(UserError, match=said):
        load_experiment(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.epochs=3"], "optim: warmup_epochs 40 is more than epochs 3"),
        (["finetune.epochs=3"], "finetune: warmup_epochs 5 is more than epochs 3"),
        (["arvideo.decoder_dim=100"], "decoder_dim 100 is not a multiple of decoder_heads 8"),
        (["objective.kind=arvideo", "arvideo.cluster=[3, 7, 7]"], "does not cut the clip's 8 x 14 x 14 tokens"),
        (["objective.kind=arvideo", "arvideo.cluster=[8, 14, 14]"], "into two or more equal parts"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_touched(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_experiment(None, ["workspace=w", *overrides])


def test_every_key_can_be_set() -> None:
    experiment = load()
    for key in all_keys():
        found: object = experiment
        for name in key.split("."):
            found = getattr(found, name)
        assert not hasattr(found, "model_fields")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=a\0b", "NUL character"),
        ("a" * 200_000 + "=1", "too long"),
        (".".join("a" * 50) + "=1", "too long"),
        ("mask=" + "[" * 20_000, "mask"),
        ("x" * 50_000 + "=1", "unknown key"),
        ("workspace=s3://bucket/w", "URLs are not supported yet"),
        (f"workspace={Path('s3://bucket/w')}", "URLs are not supported yet"),  # as commands give it
    ],
)
def test_hostile_overrides_are_refused_at_once(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_experiment(None, ["workspace=w", override])
    assert len(str(caught.value)) < 1000


def test_a_mistake_is_reported_where_it_was_made(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.toml", 'workspace = "w"'), write(tmp_path / "bad.toml", "[mask]\nratoi = 1")
    with pytest.raises(UserError, match="on the command line: unknown key 'mask.ratoi'"):
        load_experiment(good, ["mask.ratoi=1"])
    with pytest.raises(UserError, match=r"in .*bad\.toml: .*unknown key 'mask.ratoi'"):
        load_experiment(bad, ["mask.ratio=0.5"])
    deep = write(tmp_path / "deep.toml", "a = " + "[" * 20_000)
    with pytest.raises(UserError, match="is not TOML"):
        load_experiment(deep)


def test_the_page_of_the_config_has_a_word_on_every_key() -> None:
    """Written by docs/make_config_md.py from the comments: none is missing, empty or cut."""
    page = (Path(__file__).parents[2] / "docs" / "config.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(all_keys())
    for row in rows:
        words = row[-1].rstrip("| ")
        assert words and not words.endswith((",", ";", ":", " and", " or", " of", " the", " a")), row
        assert words.count("(") == words.count(")") and words.count("`") % 2 == 0, row
    for heading in ("caption", "mask", "model", "objective", "optim", "pretrain"):
        assert re.search(rf"## `\[{heading}\]`\n[A-Z]", page)


def test_motion_vectors_need_clips_whose_vectors_are_speeds() -> None:
    given = {"workspace": "w", "guide": "motion-vectors", "mask": {"kind": "motion-vectors"}}
    assert Experiment.model_validate(given).shard.bframes == 0
    with pytest.raises(ValueError, match=r"shard\.bframes = 0"):
        Experiment.model_validate({**given, "shard": {"bframes": 3}})
