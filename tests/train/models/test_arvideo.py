"""ARVideo against loops over clusters and tokens, and through the trainer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from schemas.config import ARVideo, Experiment
from schemas.errors import UserError
from schemas.stage import read_record
from schemas.workspace import Workspace
from tests.train.forking import forked_ranks
from train.data.stream import Batch, ClipDataset, collate
from train.data.videos import videos_to_pretrain_on
from train.engine.metrics import read
from train.models.arvideo import ARVideoModel, CrossAttention, cut, draw, kept_tokens
from train.models.cubes import cubes_from_clip
from train.models.losses import reconstruction_loss
from train.models.objective import Objective, build_model
from train.models.sizes import VideoMAEConfig
from train.models.videomae import Classifier
from train.pretrain import MODEL, run_pretrain
from train.probe import run_probe

torch.set_num_threads(1)

CONFIG = VideoMAEConfig.preset("tiny", image_size=32, frames=8, depth=2)  # a grid of 4 x 4 x 4
SMALL = ARVideo(cluster=(2, 2, 2), drop=0.5, decoder_dim=32, decoder_depth=2, decoder_heads=2)
CLUSTERS, SIZE, KEPT = 8, 8, 4

sides = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2))


def drawn(batch: int = 2, seed: int = 0, options: ARVideo = SMALL) -> tuple[Tensor, Tensor]:
    """Visible and target tokens of a batch."""
    each = [draw(CONFIG.grid, options, np.random.default_rng((seed, row))) for row in range(batch)]
    stacked = (np.stack([one.visible_index_V for one in each]), np.stack([one.target_index_M for one in each]))
    return torch.from_numpy(stacked[0]), torch.from_numpy(stacked[1])


def cubes(batch: int = 2) -> Tensor:
    return torch.randn(batch, CONFIG.tokens, CONFIG.cube_values, generator=torch.Generator().manual_seed(1))


def model_of(attention: Literal["joint", "divided"] = "joint") -> ARVideoModel:
    """Every weight at random, so that all of them show in the output."""
    torch.manual_seed(0)
    model = ARVideoModel(dataclasses.replace(CONFIG, attention=attention), SMALL).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


@given(sides, sides)
def test_clusters_are_boxes_of_tokens_in_raster_order(
    cluster: tuple[int, int, int], count: tuple[int, int, int]
) -> None:
    grid = (cluster[0] * count[0], cluster[1] * count[1], cluster[2] * count[2])
    if math.prod(count) == 1:
        with pytest.raises(UserError, match="two or more equal parts"):
            cut(grid, cluster)
        return
    expected: dict[tuple[int, int, int], list[int]] = {}
    token = 0
    for t in range(grid[0]):
        for y in range(grid[1]):
            for x in range(grid[2]):
                expected.setdefault((t // cluster[0], y // cluster[1], x // cluster[2]), []).append(token)
                token += 1
    clusters = cut(grid, cluster)
    assert clusters.grid == count
    assert clusters.tokens_KS.tolist() == [expected[place] for place in sorted(expected)]


def test_the_papers_numbers() -> None:
    """16 clusters of 98 tokens, 20 of them kept in 15: 300 in the encoder; all of 15: 1470 in the decoder."""
    one = draw((8, 14, 14), ARVideo(), np.random.default_rng(0))
    assert cut((8, 14, 14), (2, 7, 7)).tokens_KS.shape == (16, 98) and kept_tokens(98, 0.8) == 20
    assert (one.visible_index_V.size, one.target_index_M.size) == (300, 1470)


def test_clusters_that_do_not_fit_the_clip_are_refused() -> None:
    with pytest.raises(UserError, match=r"arvideo.cluster = \[2, 7, 7\] does not cut the clip's 4 x 4 x 4 tokens"):
        ARVideoModel(CONFIG, ARVideo())


@pytest.mark.parametrize("order", ["random", "spatial-first", "temporal-first"])
@given(seed=st.integers(0, 10**6), drop=st.sampled_from((0.1, 0.5, 0.8, 0.99)))
@settings(max_examples=20)
def test_what_is_drawn(order: Literal["random", "spatial-first", "temporal-first"], seed: int, drop: float) -> None:
    """One order of clusters; the encoder gets a part of each but the last, the decoder all of each but the first."""
    options, tokens = SMALL.model_copy(update={"order": order, "drop": drop}), cut(CONFIG.grid, SMALL.cluster).tokens_KS
    one = draw(CONFIG.grid, options, np.random.default_rng(seed))
    kept = max(SIZE - math.floor(drop * SIZE + 0.5), 1)
    seen, predicted = one.visible_index_V.reshape(-1, kept), one.target_index_M.reshape(-1, SIZE)
    owner = {token: number for number, cluster in enumerate(tokens.tolist()) for token in cluster}
    ranks = [{owner[token] for token in row} for row in seen.tolist()]
    targets = [{owner[token] for token in row} for row in predicted.tolist()]
    assert all(len(row) == 1 for row in ranks + targets) and ranks[1:] == targets[:-1]
    got = [*(row.pop() for row in ranks), targets[-1].pop()]
    assert sorted(got) == list(range(CLUSTERS))
    assert all(len(set(row)) == kept for row in seen.tolist())
    assert np.array_equal(np.sort(predicted, axis=1), tokens[got[1:]])
    by_place = {"spatial-first": [0, 1, 2, 3, 4, 5, 6, 7], "temporal-first": [0, 4, 1, 5, 2, 6, 3, 7]}
    assert got == by_place.get(order, got)
    assert one.unseen(CONFIG.grid).sum() == CONFIG.tokens - (CLUSTERS - 1) * kept


def test_orders_and_dropped_tokens_are_random_and_repeatable() -> None:
    one, same, other = (draw(CONFIG.grid, SMALL, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one.visible_index_V, same.visible_index_V)
    assert not np.array_equal(one.visible_index_V, other.visible_index_V)
    many = [draw(CONFIG.grid, SMALL, np.random.default_rng(seed)) for seed in range(400)]
    counts = np.bincount(np.concatenate([each.visible_index_V for each in many]), minlength=CONFIG.tokens)
    assert np.abs(counts / 400 - (CLUSTERS - 1) / CLUSTERS * KEPT / SIZE).max() < 0.12  # 4.8 deviations


def test_the_masks_are_those_of_a_loop_over_tokens() -> None:
    model = ARVideoModel(CONFIG, SMALL)
    for i in range((CLUSTERS - 1) * KEPT):
        for j in range((CLUSTERS - 1) * KEPT):
            assert model.encoder_mask_1VV[0, i, j].item() == (j // KEPT <= i // KEPT)
    for i in range((CLUSTERS - 1) * SIZE):
        for j in range((CLUSTERS - 1) * KEPT):
            assert model.decoder_mask_1MV[0, i, j].item() == (j // KEPT < 1 + i // SIZE)


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_a_cluster_is_predicted_from_earlier_ones_only(attention: Literal["joint", "divided"]) -> None:
    """Other pixels in one cluster change no prediction up to its own, and every later one; dropped ones none at all."""
    model, (visible, target), clip = model_of(attention), drawn(1), cubes(1)
    before = model.forward_split(clip, visible, target).prediction_BMK
    for rank in range(CLUSTERS):
        members = target[0, (rank - 1) * SIZE : rank * SIZE] if rank else torch.tensor(
            sorted({*range(CONFIG.tokens)} - {*target[0].tolist()})
        )  # fmt: skip
        changed = clip.clone()
        changed[0, members] = torch.randn(len(members), CONFIG.cube_values)
        after = model.forward_split(changed, visible, target).prediction_BMK
        moved = (after != before).any(-1)[0].view(CLUSTERS - 1, SIZE)  # by rank, 1 to 7
        assert not moved[:rank].any() and moved[rank:].all(), rank
    hidden = torch.tensor(sorted({*range(CONFIG.tokens)} - {*visible[0].tolist()}))
    changed = clip.clone()
    changed[0, hidden] = 0
    assert torch.equal(model.forward_split(changed, visible, target).prediction_BMK, before)


def test_queries_know_their_place_and_not_one_another() -> None:
    """Predictions of fewer targets, in another order, are the same ones: there is no attention among queries."""
    model, (visible, target), clip = model_of(), drawn(1), cubes(1)
    whole = model.forward_split(clip, visible, target).prediction_BMK[0]
    assert (whole[0] - whole[1]).abs().max() > 1e-3
    within = torch.randperm(SIZE)
    shuffled = target.view(1, CLUSTERS - 1, SIZE)[:, :, within].reshape(1, -1)
    again = model.forward_split(clip, visible, shuffled).prediction_BMK[0]
    torch.testing.assert_close(again.view(CLUSTERS - 1, SIZE, -1), whole.view(CLUSTERS - 1, SIZE, -1)[:, within])


@pytest.mark.medium
def test_the_model_is_one_graph_for_torch_compile() -> None:
    model, (visible, target) = model_of(), drawn()
    compiled = torch.compile(model.forward_split, backend="aot_eager", fullgraph=True)
    expected = model.forward_split(cubes(), visible, target).prediction_BMK
    torch.testing.assert_close(compiled(cubes(), visible, target).prediction_BMK, expected)


def test_checkpointing_changes_no_gradient() -> None:
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = ARVideoModel(dataclasses.replace(CONFIG, checkpointing=checkpointing), SMALL)
        model.forward_split(cubes(), *drawn()).prediction_BMK.square().sum().backward()
        results.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_cross_attention_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = CrossAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            nn.init.normal_(parameter)
        theirs.in_proj_weight.copy_(torch.cat((ours.q.weight, ours.k.weight, ours.v.weight)))
        theirs.in_proj_bias.copy_(torch.cat((ours.q.bias, torch.randn(16), ours.v.bias)))  # a key bias changes nothing
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    mask = (torch.rand(5, 7) < 0.5).index_fill(1, torch.tensor([0]), True)
    expected, _ = theirs(x, memory, memory, attn_mask=~mask)
    torch.testing.assert_close(ours(x, memory, mask.unsqueeze(0)), expected, atol=1e-4, rtol=1e-4)


def test_overfits_and_hands_its_encoder_to_the_classifier() -> None:
    torch.manual_seed(0)
    model, (visible, target) = ARVideoModel(CONFIG, SMALL), drawn()
    clip = torch.randint(0, 256, (2, 8, 32, 32, 3), dtype=torch.uint8)
    pixels = torch.randn(2, target.shape[1], CONFIG.cube_values)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = (model.forward_split(clip, visible, target).prediction_BMK - pixels).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 < 1 < losses[0]  # 1: the variance of the target
    classifier = Classifier(CONFIG, 3)
    classifier.load_pretrained(model.state_dict())
    model.encoder.norm = nn.Identity()
    assert torch.equal(classifier.encoder(clip), model.encoder(clip))


@pytest.mark.parametrize("reconstruction", [1.0, 0.0])
def test_every_parameter_learns_beside_the_contrastive_loss_in_bfloat16(reconstruction: float) -> None:
    experiment = Experiment.model_validate({
        "workspace": ".", "clip": {"frames": 8, "size": 32}, "model": {"size": "tiny", "patch": 8},
        "objective": {"kind": "arvideo", "contrastive": 1.0, "reconstruction": reconstruction},
        "arvideo": SMALL.model_dump(),
    })  # fmt: skip
    objective, (visible, target) = Objective(experiment, 12), drawn()
    clip = torch.randint(0, 256, (2, 8, 32, 32, 3), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = objective(clip, visible, target, torch.randn(2, 12), torch.arange(2))
    parts["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters() if p.requires_grad)
    assert all(p.requires_grad for name, p in objective.named_parameters() if reconstruction or "encoder." in name)
    if reconstruction:
        prediction = objective.model.forward_split(clip_cubes(clip), visible, target).prediction_BMK
        expected = reconstruction_loss(prediction, clip_cubes(clip), target)
        torch.testing.assert_close(parts["reconstruction"], expected, atol=0.02, rtol=0.02)


def clip_cubes(clip: Tensor) -> Tensor:
    return cubes_from_clip(clip, CONFIG.patch_size, CONFIG.tubelet)


def arvideo(small: Callable[..., Experiment], **changes: Any) -> Experiment:
    """The tiny workspace's grid is 2 x 4 x 4; no guide: ARVideo reads none."""
    section = {"cluster": [1, 2, 2], "drop": 0.5, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
    return small(guide="none", objective={"kind": "arvideo"}, arvideo=section, **changes)


def test_the_stream_draws_by_seed_epoch_and_video(small: Callable[..., Experiment]) -> None:
    """So neither workers nor processes nor resumption change what a clip's clusters are."""
    experiment = arvideo(small, clip={"repeats": 2})
    videos, _ = videos_to_pretrain_on(Workspace(Path(experiment.workspace)), experiment.guide_name, None)
    dataset = ClipDataset(videos, experiment, build_model(experiment).config.grid)
    first, again, next_epoch = (collate([dataset[epoch, 3]]) for epoch in (0, 0, 1))
    assert isinstance(first, Batch) and isinstance(again, Batch) and isinstance(next_epoch, Batch)
    assert first.visible_index_BV.shape == (2, 14) and first.predicted_index_BM.shape == (2, 28)
    assert torch.equal(first.visible_index_BV, again.visible_index_BV)
    assert torch.equal(first.mask_BN.sum(1), torch.tensor([18, 18]))
    for other in (next_epoch.visible_index_BV, first.visible_index_BV.flip(0)):
        assert not torch.equal(first.visible_index_BV, other)


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_pretrains_and_its_encoder_is_probed(small: Callable[..., Experiment]) -> None:
    experiment = arvideo(small)
    record = run_pretrain(experiment)
    text = "8 of 1 x 2 x 2 tokens, random order; the encoder sees 2 of 4 tokens of 7 of them (14 in all)"
    assert text in record.info["clusters"] and "decoder predicts 28" in record.info["clusters"]
    folder = Workspace(Path(experiment.workspace)).run(experiment.name)
    build_model(experiment).load_state_dict(load_file(folder / MODEL))
    assert run_probe(experiment).counts["test"] > 0
    changed = arvideo(small, mask={"ratio": 0.9})
    assert run_pretrain(changed) == read_record(folder)  # masks are not read: nothing to do again


@pytest.mark.slow
def test_two_processes_are_one(small: Callable[..., Experiment]) -> None:
    """Joined by gloo: the loss curve of one process, to rounding."""
    changes: dict[str, Any] = {
        "objective": {"kind": "arvideo"}, "arvideo": {"cluster": (1, 2, 2), "drop": 0.5, "decoder_dim": 32,
                                                      "decoder_depth": 1, "decoder_heads": 2},
        "guide": "none", "mask": {"kind": "tube"}, "optim": {"batch_size": 8, "epochs": 3},
    }  # fmt: skip
    curves = []
    for processes in (1, 2):
        run = small(**changes, name=f"on-{processes}", pretrain={"processes": processes})
        with forked_ranks():
            run_pretrain(run)
        lines = read(Workspace(Path(run.workspace)).run(run.name) / "metrics.jsonl")
        curves.append([line["loss"] for line in lines])
    assert len(curves[0]) == 3 and curves[1] == pytest.approx(curves[0], rel=1e-4)
