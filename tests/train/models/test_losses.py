"""Losses against loops over their definitions, and two processes against one."""

import math
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from tests.train.forking import SERVER
from train.engine.distributed import Ranks
from train.engine.sharding import parallel
from train.models.cubes import normalise
from train.models.losses import (
    GlobalBatchNorm1d,
    PredictionHead,
    Temperature,
    contrastive_loss,
    pixel_target,
    reconstruction_loss,
)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 9), st.integers(0, 2**31))
@settings(max_examples=25)
def test_pixel_target_by_loops(batch: int, tokens: int, pixels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cubes = torch.randint(0, 256, (batch, tokens, pixels * 3), dtype=torch.uint8, generator=generator)
    target = pixel_target(cubes)
    for b in range(batch):
        for n in range(tokens):
            for c in range(3):
                values = [int(cubes[b, n, 3 * i + c]) / 255 for i in range(pixels)]
                mean = sum(values) / pixels
                deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (pixels - 1))
                expected = torch.tensor([(v - mean) / (deviation + 1e-6) for v in values])
                torch.testing.assert_close(target[b, n, c::3], expected, atol=1e-4, rtol=1e-4)
    # From what the encoder sees: the same but for rounding, which a deviation near 0 magnifies.
    torch.testing.assert_close(pixel_target(normalise(cubes), norm=False), cubes / 255)


def test_a_flat_patch_has_target_zero_not_nan() -> None:
    assert torch.equal(pixel_target(torch.full((1, 1, 24), 7, dtype=torch.uint8)), torch.zeros(1, 1, 24))


@pytest.mark.parametrize("norm", [True, False])
def test_reconstruction_is_the_mean_over_all_pixels_of_hidden_tokens(norm: bool) -> None:
    torch.manual_seed(0)
    cubes = torch.randint(0, 256, (2, 5, 12), dtype=torch.uint8)
    hidden = torch.tensor([[0, 3], [1, 4]])
    prediction = torch.randn(2, 2, 12, dtype=torch.bfloat16, requires_grad=True)
    target = pixel_target(cubes, norm=norm)
    errors = [
        (prediction[b, m, k].item() - target[b, hidden[b, m], k].item()) ** 2
        for b in range(2)
        for m in range(2)
        for k in range(12)
    ]
    loss = reconstruction_loss(prediction, cubes, hidden, norm=norm)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    loss.backward()
    assert prediction.grad is not None


def test_visible_tokens_that_are_predicted_do_not_count() -> None:
    """VideoMAE V2: sum(error * hidden) / sum(hidden), clips with unequally many hidden ones together."""
    torch.manual_seed(0)
    cubes = torch.randint(0, 256, (2, 5, 12), dtype=torch.uint8)
    index, weight = torch.tensor([[0, 1, 3], [1, 2, 4]]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    prediction = torch.randn(2, 3, 12, requires_grad=True)
    target = pixel_target(cubes)
    errors = [
        (prediction[b, m] - target[b, index[b, m]]).square().mean().item()
        for b in range(2)
        for m in range(3)
        if weight[b, m]
    ]
    loss = reconstruction_loss(prediction, cubes, index, weight_BM=weight)
    assert loss.item() == pytest.approx(sum(errors) / 3, rel=1e-5)
    loss.backward()
    assert prediction.grad is not None and torch.equal(prediction.grad.abs().sum(-1) > 0, weight > 0)
    every = reconstruction_loss(prediction, cubes, index, weight_BM=torch.ones(2, 3))
    torch.testing.assert_close(every, reconstruction_loss(prediction, cubes, index))
    assert reconstruction_loss(prediction, cubes, index, weight_BM=torch.zeros(2, 3)) == 0


def infonce_by_loops(video: Tensor, text: Tensor, tau: float, caption: list[int] | None) -> float:
    """Equation 4, both directions averaged over the batch, one exponential after the other."""
    n = len(video)
    sim = [[float(v @ t / (v.norm() * t.norm())) for t in text.double()] for v in video.double()]
    total = 0.0
    for i in range(n):
        rivals = [j for j in range(n) if j == i or caption is None or caption[j] != caption[i]]
        v2t = sum(math.exp((sim[i][j] - sim[i][i]) / tau) for j in rivals)
        t2v = sum(math.exp((sim[j][i] - sim[i][i]) / tau) for j in rivals)
        total += (math.log(v2t) + math.log(t2v)) / 2
    return total / n


@given(st.integers(1, 6), st.integers(2, 5), st.floats(0.02, 2), st.booleans(), st.integers(0, 2**31))
def test_contrastive_loss_by_loops(batch: int, dim: int, tau: float, captions: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    video, text = torch.randn(2, batch, dim, generator=generator)
    ids = torch.randint(0, 3, (batch,), generator=generator) if captions else None
    expected = infonce_by_loops(video, text, tau, None if ids is None else ids.tolist())
    assert contrastive_loss(video, text, tau, ids).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_equal_captions_only_are_no_negatives() -> None:
    video, text = torch.randn(2, 3, 8)
    text[1] = text[0]
    assert contrastive_loss(video, text, 0.1, torch.tensor([4, 4, 4])) == 0  # nothing left to tell apart
    assert contrastive_loss(video[:2], text[:2], 0.1).item() >= math.log(2) / 2  # the same text twice cannot be told


def test_contrastive_loss_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    video, text = torch.randn(2, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(video, text, 0.01)
    assert loss.dtype == torch.float32 and torch.equal(loss, contrastive_loss(video, text, 0.01))


def test_temperature_is_learnt_within_bounds_and_comes_back() -> None:
    temperature = Temperature(0.02, learnable=True, minimum=0.01)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=1.0)
    for sign in (1, 1, 1, -1):  # down against the bound, then up
        optimizer.zero_grad()
        (sign * temperature().log()).backward()
        optimizer.step()
        temperature.bound()
    assert temperature().item() == pytest.approx(0.01 * math.e, rel=1e-5)
    assert [n for n, _ in Temperature(0.07).named_parameters()] == []
    assert Temperature(0.07)().item() == pytest.approx(0.07)
    with pytest.raises(ValueError, match=r"temperature 0.001 must be at least its minimum 0.01"):
        Temperature(0.001)


def test_global_batch_norm_in_one_process_is_batch_norm() -> None:
    torch.manual_seed(0)
    ours, theirs, x = GlobalBatchNorm1d(5), nn.BatchNorm1d(5), torch.randn(7, 5)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


class Tower(nn.Module):
    """What pretraining puts on top of the encoder: projection, head with batch norm, temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 8)
        self.head = PredictionHead(8, 4)
        self.tau = Temperature(0.1, learnable=True)

    def forward(self, video: Tensor, text: Tensor, caption: Tensor | None) -> Tensor:
        return contrastive_loss(self.head(self.encoder(video)), text, self.tau(), caption)


def one_step(rank: int, world: int, captions: bool) -> tuple[nn.Module, float]:
    """Forward and backward on this rank's share of one fixed batch; the weights are the same everywhere."""
    torch.manual_seed(0)
    tower, per_rank = Tower(), 8 // world
    video, text = torch.randn(8, 6), torch.randn(8, 4)
    mine = slice(rank * per_rank, (rank + 1) * per_rank)
    ids = torch.tensor([0, 1, 2, 3, 0, 1, 5, 5])[mine] if captions else None
    model = parallel(tower, Ranks(rank, world, torch.device("cpu")), fsdp=False)
    loss = model(video[mine], text[mine], ids)
    loss.backward()
    return tower, loss.item()


def weighted_step(rank: int, world: int) -> tuple[Tensor, float]:
    """Gradient of a predictor of pixels whose ranks have unequally many hidden tokens."""
    torch.manual_seed(0)
    cubes, index = torch.randint(0, 256, (8, 5, 12), dtype=torch.uint8), torch.randint(5, (8, 3))
    weight, predictor, per_rank = (
        (torch.rand(8, 3) < torch.linspace(0, 1, 8)[:, None]).float(),
        nn.Linear(12, 12),
        8 // world,
    )
    mine = slice(rank * per_rank, (rank + 1) * per_rank)
    model = parallel(predictor, Ranks(rank, world, torch.device("cpu")), fsdp=False)
    prediction = model(cubes[mine].float().gather(1, index[mine, :, None].expand(-1, -1, 12)) / 255)
    loss = reconstruction_loss(prediction, cubes[mine], index[mine], weight_BM=weight[mine])
    loss.backward()
    assert predictor.weight.grad is not None
    return predictor.weight.grad, loss.item()


def worker(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    for captions in (False, True):
        tower, loss = one_step(rank, world, captions)
        grads = {name: p.grad for name, p in tower.named_parameters()}
        torch.save({"loss": loss, "grads": grads, "state": tower.state_dict()}, f"{folder}/{captions}-{rank}.pt")
    gradient, loss = weighted_step(rank, world)
    torch.save({"loss": loss, "gradient": gradient}, f"{folder}/weighted-{rank}.pt")
    dist.barrier()  # a rank that leaves while the other still talks to it takes it down
    dist.destroy_process_group()
    if sys.platform == "linux":
        threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
        assert not any("gloo" in name for name in threads), threads  # one left may abort the process as it ends


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    """Loss, gradients and running statistics of two gloo ranks under DDP equal one process's."""
    start_processes(worker, args=(2, os.fspath(tmp_path)), nprocs=2, start_method=SERVER.get_start_method())
    for captions in (False, True):
        ranks = [torch.load(tmp_path / f"{captions}-{rank}.pt", weights_only=True) for rank in range(2)]
        tower, loss = one_step(0, 1, captions)
        assert sum(r["loss"] for r in ranks) / 2 == pytest.approx(loss, rel=1e-5)
        for rank in ranks:
            for name, parameter in tower.named_parameters():
                torch.testing.assert_close(rank["grads"][name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)
            for name, tensor in tower.state_dict().items():
                torch.testing.assert_close(rank["state"][name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    parts = [torch.load(tmp_path / f"weighted-{rank}.pt", weights_only=True) for rank in range(2)]
    gradient, loss = weighted_step(0, 1)
    assert sum(part["loss"] for part in parts) / 2 == pytest.approx(loss, rel=1e-5)
    for part in parts:
        torch.testing.assert_close(part["gradient"], gradient, atol=1e-6, rtol=1e-4)
