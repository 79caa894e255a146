"""Learning rates at the steps where they can be told by hand, and who decays."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from train.data.sampling import BatchPlan
from train.engine.optim import lr_at, parameter_groups, scaled_lr, set_lr
from train.models.losses import PredictionHead, Temperature
from train.models.sizes import VideoMAEConfig
from train.models.videomae import Classifier, PretrainModel

CONFIG = VideoMAEConfig.preset("tiny", dim=24, depth=2, heads=2, decoder_dim=16, decoder_depth=1)


def test_linear_scaling() -> None:
    assert scaled_lr(1.5e-4, 2048) == pytest.approx(1.2e-3)  # VideoMAE ViT-B on 64 GPUs
    assert scaled_lr(1.5e-4, 256) == pytest.approx(1.5e-4)


@given(videos=st.integers(1, 64), rate=st.floats(1e-5, 1e-2), repeats=st.integers(1, 8))
def test_the_documented_rule_for_repeats_trains_as_one_that_counts_videos(
    videos: int, rate: float, repeats: int
) -> None:
    """VideoMAE V2, MGMAE and ST-MAE: V videos an update at b x V / 256. docs/masks.md: batch V x R, base_lr b / R."""
    plan = BatchPlan(np.zeros(4 * videos), seed=0, epochs=1, batch_size=videos * repeats, repeats=repeats)
    assert plan.videos_per_batch == videos and plan.batches_per_epoch == 4
    assert scaled_lr(rate / repeats, plan.batch_size) == pytest.approx(rate * videos / 256)
    page = " ".join((Path(__file__).parents[3] / "docs" / "masks.md").read_text(encoding="utf-8").split())
    assert "set `optim.batch_size` to V x R **and** `optim.base_lr` to b / R" in page


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 0.0), (5, 0.5), (10, 1.0), (11, 1.0), (61, 0.55), (111, 0.1), (10**6, 0.1)],
)
def test_warm_up_from_zero_then_half_a_cosine(step: int, lr: float) -> None:
    assert lr_at(step, base=1.0, warmup=11, total=111, minimum=0.1) == pytest.approx(lr)


@given(st.integers(0, 30), st.integers(1, 60), st.floats(1e-6, 1), st.floats(0, 1e-6))
def test_schedule_is_videomaes(warmup: int, rest: int, base: float, minimum: float) -> None:
    total = warmup + rest
    cosine = [minimum + (base - minimum) * (1 + math.cos(math.pi * i / rest)) / 2 for i in range(rest)]
    expected = np.concatenate((np.linspace(0, base, warmup), cosine))
    got = [lr_at(step, base=base, warmup=warmup, total=total, minimum=minimum) for step in range(total)]
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-18)


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="warm-up of 20 steps does not fit into 10"):
        lr_at(0, base=1.0, warmup=20, total=10)


def test_only_matrices_decay() -> None:
    model = nn.ModuleDict(
        {"model": PretrainModel(CONFIG), "head": PredictionHead(24, 8), "tau": Temperature(learnable=True)}
    )
    groups = parameter_groups(model, weight_decay=0.05)
    decay = {group["weight_decay"]: set(group["names"]) for group in groups}
    assert sorted(decay) == [0.0, 0.05]
    assert decay[0.0] | decay[0.05] == {name for name, _ in model.named_parameters()}
    assert {"model.mask_token", "tau.log_temperature", "model.encoder.blocks.0.attn.q_bias"} <= decay[0.0]
    assert all(name.endswith("weight") and "norm" not in name for name in decay[0.05])
    assert {"model.encoder.patch_embed.proj.weight", "head.0.weight"} <= decay[0.05]
    assert "head.1.weight" in decay[0.0]  # the batch norm's


def test_frozen_parameters_are_left_out() -> None:
    model = Classifier(CONFIG, 3)
    model.encoder.requires_grad_(False)
    names = [name for group in parameter_groups(model, weight_decay=0.0) for name in group["names"]]
    assert sorted(names) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]


def test_layer_decay_slows_the_early_layers() -> None:
    model = Classifier(CONFIG, 3)
    scale = {n: g["lr_scale"] for g in parameter_groups(model, weight_decay=0.05, layer_decay=0.5) for n in g["names"]}
    assert scale["encoder.patch_embed.proj.weight"] == 0.5**3
    assert scale["encoder.blocks.0.mlp.fc1.weight"] == 0.5**2
    assert scale["encoder.blocks.1.norm1.bias"] == 0.5
    assert scale["fc_norm.weight"] == scale["head.weight"] == 1.0


def test_set_lr_respects_the_scale() -> None:
    groups = parameter_groups(Classifier(CONFIG, 3), weight_decay=0.05, layer_decay=0.5)
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    set_lr(optimizer, 0.2)
    assert {g["lr"] for g in optimizer.param_groups} == {0.2 * 0.5**n for n in range(4)}
