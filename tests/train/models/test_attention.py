"""Divided space-time attention against a loop over tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from train.models.attention import Attention, Block, DividedBlock, divided_masks
from train.models.sizes import VideoMAEConfig
from train.models.videomae import Classifier, Encoder, PretrainModel

torch.set_num_threads(1)

CONFIG = VideoMAEConfig.preset("tiny", image_size=32, frames=8, depth=2, decoder_depth=1, attention="divided")
TIMES, PLACES = 4, 16


def randomise(module: nn.Module) -> None:
    """Every parameter at random: the temporal projection starts at zero, and would hide all mistakes before it."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


def attend(attention: Attention, x_ND: Tensor, token: int, seen: list[int]) -> Tensor:
    """What one token gets from those it sees, head by head, by the definition."""
    q_weight, k_weight, v_weight = attention.qkv.weight.chunk(3)
    q = q_weight @ x_ND[token] + attention.q_bias
    k, v = x_ND[seen] @ k_weight.T, x_ND[seen] @ v_weight.T + attention.v_bias
    width = len(q) // attention.heads
    heads = [slice(start, start + width) for start in range(0, len(q), width)]
    out: Tensor = attention.proj(torch.cat([(k[:, h] @ q[h] / width**0.5).softmax(0) @ v[:, h] for h in heads]))
    return out


def looped(block: DividedBlock, x_ND: Tensor, tokens: list[int], places: int) -> Tensor:
    """The block's output for the tokens with these numbers."""
    for norm, attention, sets in (
        (block.temporal_norm1, block.temporal_attn, [token % places for token in tokens]),
        (block.norm1, block.attn, [token // places for token in tokens]),
    ):
        normed = norm(x_ND)
        rows = []
        for row in range(len(tokens)):
            seen = [other for other in range(len(tokens)) if sets[other] == sets[row]]
            rows.append(x_ND[row] + attend(attention, normed, row, seen))
        x_ND = torch.stack(rows)
    return x_ND + block.mlp(block.norm2(x_ND))


@given(st.integers(1, 3), st.integers(1, 5), st.data())
@settings(max_examples=30)
def test_a_divided_block_is_attention_over_time_then_over_space(times: int, places: int, data: st.DataObject) -> None:
    """Of visible tokens only, as ragged as they come, and in any order."""
    torch.manual_seed(0)
    block = DividedBlock(8, 2, 16, 1e-6, times=times, places=places)
    randomise(block)
    visible = data.draw(st.integers(1, times * places))
    tokens = [data.draw(st.permutations(range(times * places)))[:visible] for _ in range(2)]
    x = torch.randn(2, visible, 8)
    got = block(x, divided_masks(torch.tensor(tokens), places))
    for row in range(2):
        torch.testing.assert_close(got[row], looped(block, x[row], tokens[row], places), atol=1e-5, rtol=1e-5)


def test_whole_clips_take_a_cheaper_way_to_the_same_outputs_and_gradients() -> None:
    torch.manual_seed(0)
    encoder = Encoder(CONFIG)
    randomise(encoder)
    cubes = torch.randn(2, CONFIG.tokens, CONFIG.cube_values)
    outputs, gradients = [], []
    for index in (None, torch.arange(CONFIG.tokens).expand(2, -1)):
        encoder.zero_grad()
        outputs.append(encoder(cubes, index))
        outputs[-1].square().mean().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_without_masks_the_sequence_must_be_the_whole_grid() -> None:
    with pytest.raises(AssertionError, match="15 tokens of a grid of 2 x 8 need masks"):
        DividedBlock(8, 2, 16, 1e-6, times=2, places=8)(torch.zeros(1, 15, 8))


def test_a_further_condition_holds_in_both_attentions() -> None:
    """Under causality, a token's output does not move when a later one's input does."""
    torch.manual_seed(0)
    block = DividedBlock(8, 2, 16, 1e-6, times=3, places=4)
    randomise(block)
    causal = torch.ones(12, 12, dtype=torch.bool).tril().unsqueeze(0)
    masks = divided_masks(torch.arange(12).unsqueeze(0), 4, causal)
    x = torch.randn(1, 12, 8)
    other = x.clone()
    other[:, 7] = torch.randn(8)
    moved = (block(x, masks) != block(other, masks)).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == [7, 11]  # itself, and its place in the next slice


@pytest.mark.parametrize("model", [Encoder(CONFIG), Classifier(CONFIG, 3).encoder])
def test_a_fresh_block_is_one_of_spatial_attention(model: Encoder) -> None:
    """As in TimeSformer: so it may start from joint weights, or from those of an image model."""
    torch.manual_seed(0)
    block = copy.deepcopy(model.blocks[0])
    spatial = Block(CONFIG.dim, CONFIG.heads, CONFIG.mlp_dim, CONFIG.eps)
    spatial.load_state_dict({k: v for k, v in block.state_dict().items() if not k.startswith("temporal_")})
    x = torch.randn(2, CONFIG.tokens, CONFIG.dim)
    by_slice = spatial(x.view(2 * TIMES, PLACES, -1)).view(2, CONFIG.tokens, -1)
    assert isinstance(block, DividedBlock) and block.temporal_attn.qkv.weight.abs().max() > 0
    torch.testing.assert_close(block(x), by_slice)


def test_every_parameter_has_a_gradient_and_learns() -> None:
    """DistributedDataParallel waits for all; the zero projection lets the rest of its attention learn one update on."""
    torch.manual_seed(0)
    model = PretrainModel(CONFIG)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clip = torch.randint(0, 256, (2, 8, 32, 32, 3), dtype=torch.uint8)
    mask = torch.rand(2, CONFIG.tokens).argsort(1) < 40
    for update in range(2):
        optimizer.zero_grad()
        model(clip, mask).prediction_BMK.square().mean().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        assert all(g is not None for g in gradients.values())
        qkv = gradients["encoder.blocks.0.temporal_attn.qkv.weight"]
        assert qkv is not None and bool(qkv.abs().max() > 0) == (update > 0)
        optimizer.step()
