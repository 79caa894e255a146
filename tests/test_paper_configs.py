"""configs/paper holds the paper's tables, one file a row; what they say is checked against the paper and VideoMAE."""

from pathlib import Path

import pytest

from schemas.config import Experiment
from schemas.toml import load_experiment

PAPER = Path(__file__).parent.parent / "configs" / "paper"

# The rows of each table, top to bottom; table 1 and table 3 have one file a dataset.
ROWS = {
    "table1": [f"{data}_{mask}" for data in ("ssv2", "k400") for mask in ("tube", "mgm", "tgm")],
    "table2": ["tube_nce_only", "tube_mae", "tube_mae_nce", "mgm_nce_only", "mgm_mae", "mgm_mae_nce",
               "tgm_mae", "tgm_mae_nce"],
    "table3": [f"{data}_{run}" for data in ("ucf101", "hmdb51", "diving48")
               for run in ("tube", "mgm", "tgm", "tgm_nce")],
    "table4": [f"epic55_{run}" for run in ("tube", "mgm", "mgm_nce", "tgm", "tgm_nce")],
    "table5a": ["ratio55", "ratio60", "ratio75"],
    "table5b": ["bottom_k", "tube", "top_k"],
    "table5c": ["captions1", "captions3"],
    "table6b": ["oracle", "llm", "blip", "blip_llm"],
}  # fmt: skip
PRETRAINED_ONLY = ["k400_mgm_nce", "k400_tgm_nce"]  # rows of tables 3 and 4 need these runs, which table 1 has not
FILES = [f"{table}_{row}" for table, rows in ROWS.items() for row in rows] + PRETRAINED_ONLY


def paper(name: str) -> Experiment:
    return load_experiment(PAPER / f"{name}.toml")


def pretraining() -> list[str]:
    return [name for name in FILES if "pretrain" in paper(name).stages]


def test_every_row_has_its_file_and_no_file_is_of_no_row() -> None:
    assert sorted(path.stem for path in PAPER.glob("*.toml")) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_what_all_rows_share(name: str) -> None:
    """Section 4.2, and VideoMAE's scripts where it says "following [38]" (its README and scripts)."""
    run = paper(name)
    assert (run.model.size, run.model.patch, run.model.tubelet) == ("base", 16, 2)  # ViT-Base, 2x16x16
    assert run.model.attention == "joint"  # "global joint space-time attention"
    assert (run.clip.frames, run.clip.size) == (16, 224)
    assert run.clip.stride == (2 if run.index.format == "ssv2" else 4)
    assert run.clip.flip == (run.index.format != "ssv2")
    views = (run.finetune.temporal_views, run.finetune.spatial_views)
    assert views == ((2, 3) if run.index.format == "ssv2" else (5, 3))
    for frozen in (run.probe, run.retrieve) if "retrieve" in run.stages else (run.probe,):
        assert (frozen.views, frozen.spatial_views) == views  # "the same 16-frame clip ... and multi-view protocol"
        assert frozen.sampling == ("segments" if run.index.format == "ssv2" else "dense")
    if "pretrain" in run.stages:
        optim = run.optim
        assert (optim.base_lr, optim.weight_decay, optim.betas, optim.epochs) == (1.5e-4, 0.05, (0.9, 0.95), 200)
        assert (optim.batch_size, optim.warmup_epochs, optim.min_lr, optim.clip_grad) == (2048, 40, 1e-5, 0)  # VideoMAE
        assert run.clip.scales == (1.0, 0.875, 0.75, 0.66)  # VideoMAE's multi-scale crop
        assert run.objective.norm_pixels and run.clip.repeats == 1 and run.mask.decoder_ratio == 0
        assert run.index.format in ("ssv2", "kinetics")
    if "finetune" in run.stages:
        tune = run.finetune
        assert (tune.weight_decay, tune.betas, tune.min_lr, tune.warmup_epochs) == (0.05, (0.9, 0.999), 1e-6, 5)
        assert (tune.layer_decay, tune.drop_path, tune.smoothing) == (0.75, 0.1, 0.1)
        assert (tune.mixup, tune.cutmix, tune.rand_augment) == (0.8, 1.0, "rand-m7-n4-mstd0.5-inc1")
        assert (tune.erasing, tune.area, tune.repeats) == (0.25, (0.08, 1.0), 1)
        ssv2 = run.index.format == "ssv2"
        assert tune.sampling == ("segments" if ssv2 else "dense")
        assert (tune.epochs, tune.batch_size, tune.base_lr) == ((50, 512, 5e-4) if ssv2 else (100, 512, 1e-3))
        assert tune.heads == ("verb-noun" if run.index.format == "epic55" else "label")


@pytest.mark.parametrize(
    ("words", "kind", "guide", "ratio"),
    [
        ("tgm", "top-k", "text", 0.6),  # table 5a's best
        ("mgm", "motion-vectors", "motion-vectors", 0.75),  # section 4.6: MGM's best
        ("tube", "tube", None, None),
    ],
)
def test_the_mask_of_a_row(words: str, kind: str, guide: str | None, ratio: float | None) -> None:
    rows = [name for name in pretraining() if words in name and "tube" not in name.replace(words, "")]
    assert rows
    for name in rows:
        run = paper(name)
        assert run.mask.kind == kind
        assert run.guide == (guide or ("embeddings" if run.objective.contrastive else "none"))
        # Table 1 reproduces VideoMAE, whose ratio is 0.9; tables 2 and 5b say 0.75.
        assert run.mask.ratio == (ratio or (0.9 if name.startswith("table1") else 0.75))


@pytest.mark.parametrize("name", [name for table in ("table2",) for name in (f"{table}_{row}" for row in ROWS[table])])
def test_the_losses_of_table_2(name: str) -> None:
    objective = paper(name).objective
    assert objective.reconstruction == (0 if name.endswith("nce_only") else 1)
    assert objective.contrastive == (1 if "nce" in name else 0)


def test_the_ablations_change_one_thing_each() -> None:
    best = paper("table2_tgm_mae_nce").model_dump(exclude={"name"})
    changed = {
        "table5a_ratio55": ("mask", "ratio", 0.55),
        "table5a_ratio75": ("mask", "ratio", 0.75),
        "table5b_bottom_k": ("mask", "kind", "bottom-k"),
        "table6b_oracle": ("captions", None, "oracle"),
        "table6b_llm": ("captions", None, "llm"),
        "table6b_blip_llm": ("captions", None, "blip2+llm"),
    }
    for name, (section, key, value) in changed.items():
        other = paper(name).model_dump(exclude={"name"})
        if key is None:
            assert other[section] == value
            other[section] = best[section]
        else:
            assert other[section][key] == value
            other[section] = {**other[section], key: best[section][key]}
        assert other == best, name
    assert paper("table5c_captions1").caption.keyframes == 1 and paper("table5c_captions3").caption.keyframes == 3


def test_the_same_run_is_trained_once() -> None:
    """Rows of several tables that are one run have one workspace and name, so `tgmae run` finds it done."""
    by_place: dict[tuple[str, str], list[str]] = {}
    for name in FILES:
        run = paper(name)
        by_place.setdefault((run.workspace, run.name), []).append(name)
    for names in by_place.values():
        first, *others = (paper(name) for name in names)
        assert all(other == first for other in others), names
    tgm_nce = by_place["work/ssv2", "tgm-nce"]
    assert tgm_nce == ["table2_tgm_mae_nce", "table5a_ratio60", "table5b_top_k", "table5c_captions3", "table6b_blip"]


@pytest.mark.parametrize("name", [f"{table}_{row}" for table in ("table3", "table4") for row in ROWS[table]])
def test_transfer_starts_from_a_run_that_a_file_makes(name: str) -> None:
    run = paper(name)
    assert "pretrain" not in run.stages and run.guide == "none"
    made = {f"{paper(other).workspace}/runs/{paper(other).name}" for other in pretraining()}
    assert run.model.init in made
    wanted = ("probe", "retrieve") if name.startswith("table3") else ("finetune", "probe")
    assert run.stages == wanted


@pytest.mark.parametrize("path", sorted(PAPER.parent.glob("*.toml")))
def test_the_other_configs_load(path: Path) -> None:
    assert load_experiment(path).workspace.startswith("work/")
