"""The parts VideoMAE is made of: fixed positions, cube embedding, attention, blocks joint and divided.

Module and parameter names are those of the VideoMAE release (MCG-NJU/VideoMAE), so that its
checkpoints load as they are; train/models/hf.py maps them to transformers' names.

Shape suffixes: B clips, N tokens of the sequence, D width, H heads, K values of one cube
(p0*p1*p2*channels); T time slices and P places of the token grid. A mask [B, N, N] is true where the
token of the row may attend to the token of the column; B may be 1.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def sinusoid_positions(tokens: int, dim: int) -> Tensor:
    """Fixed sine-cosine positions [1, tokens, dim], float32.

    One-dimensional, over the flattened token index (not over t, h and w): the angle is
    index / 10000^(2*floor(j/2)/dim), its sine on even j and its cosine on odd j. Computed in
    float64, as VideoMAE does: in float32 the table of 1568 tokens is off by 1e-4.
    """
    angles = np.arange(tokens)[:, None] / np.power(10000.0, 2 * (np.arange(dim) // 2) / dim)
    table = np.where(np.arange(dim) % 2 == 0, np.sin(angles), np.cos(angles))
    return torch.from_numpy(table.astype(np.float32)).unsqueeze(0)


class CubeEmbed(nn.Module):
    """VideoMAE's patch embedding, applied to cubes that are already cut out: [..., K] to [..., D].

    The parameters are those of the release's Conv3d with kernel = stride = (tubelet, patch, patch),
    but on cut-out cubes that convolution is one matrix product, so only the cubes that are
    kept need be embedded. A cube's values are ordered (frame, row, column, channel), channel
    fastest, hence the permutation of the kernel.
    """

    def __init__(self, in_chans: int, dim: int, tubelet: int, patch: int) -> None:
        super().__init__()
        kernel = (tubelet, patch, patch)
        self.proj = nn.Conv3d(in_chans, dim, kernel_size=kernel, stride=kernel)

    def forward(self, cubes_BNK: Tensor) -> Tensor:
        weight_DK = self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return F.linear(cubes_BNK.to(weight_DK.dtype), weight_DK, self.proj.bias)


class Attention(nn.Module):
    """Self-attention with learnable query and value biases and no key bias, of all tokens or of those a mask allows.

    A key bias would add the same number to all of a query's scores, which softmax ignores.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        assert dim % heads == 0, f"width {dim} is not divisible by {heads} heads"
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor, mask_BNN: Tensor | None = None) -> Tensor:
        b, n, d = x_BND.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(x_BND, self.qkv.weight, bias)
        q_BHNd, k_BHNd, v_BHNd = qkv.view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mask_B1NN = None if mask_BNN is None else mask_BNN.unsqueeze(1)
        mixed_BHNd = F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd, mask_B1NN)
        out: Tensor = self.proj(mixed_BHNd.transpose(1, 2).reshape(b, n, d))
        return out


class Masks(NamedTuple):
    """What each kind of attention may look at; None: at everything in its set."""

    joint_BNN: Tensor | None = None  # of joint attention
    time_BNN: Tensor | None = None  # of divided attention: tokens of the same place
    space_BNN: Tensor | None = None  # tokens of the same time slice


def divided_masks(index_BN: Tensor, places: int, allowed_BNN: Tensor | None = None) -> Masks:
    """Masks of divided attention over the tokens with these numbers, int64 [B, N], of a grid of P `places` a slice.

    With tokens missing, places and slices hold unequal numbers of them, so the sets are given by masks.
    allowed_BNN: a further condition, such as causality. Every token is in its own sets, so no row is empty.
    """
    time_BN, place_BN = index_BN // places, index_BN % places
    same_place = place_BN.unsqueeze(2) == place_BN.unsqueeze(1)
    same_time = time_BN.unsqueeze(2) == time_BN.unsqueeze(1)
    if allowed_BNN is not None:
        same_place, same_time = same_place & allowed_BNN, same_time & allowed_BNN
    return Masks(time_BNN=same_place, space_BNN=same_time)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them. (timm's is the same, and takes a second to import.)"""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x_BND)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)); exact GELU."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, eps: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_dim)
        if drop_path > 0:
            from timm.layers.drop import DropPath  # a second to import, and only fine-tuning needs it

            self.drop_path: nn.Module = DropPath(drop_path)
        else:
            self.drop_path = nn.Identity()

    def forward(self, x_BND: Tensor, masks: Masks | None = None) -> Tensor:
        mask_BNN = None if masks is None else masks.joint_BNN
        x_BND = x_BND + self.drop_path(self.attn(self.norm1(x_BND), mask_BNN))
        return x_BND + self.drop_path(self.mlp(self.norm2(x_BND)))


class DividedBlock(Block):
    """Divided space-time attention (Bertasius et al. 2021, section 3): over time, over space, then the MLP.

    Each of the three has its own norm and residual. The spatial attention has the names of joint
    attention, and the temporal one's output projection starts at zero, as in TimeSformer: a fresh block is
    a block of spatial attention, so it may start from joint weights or an image model's. There is no
    class token, and no further layer after the temporal projection (TimeSformer has one and starts it at
    zero; two linear maps in a row are one).
    """

    def __init__(
        self, dim: int, heads: int, mlp_dim: int, eps: float, drop_path: float = 0.0, *, times: int, places: int
    ) -> None:
        super().__init__(dim, heads, mlp_dim, eps, drop_path)
        self.times, self.places = times, places
        self.temporal_norm1 = nn.LayerNorm(dim, eps=eps)
        self.temporal_attn = Attention(dim, heads)

    def forward(self, x_BND: Tensor, masks: Masks | None = None) -> Tensor:
        """Without masks the sequence is every token of the grid, in order: its sets are cut out, which is cheaper.

        Outputs are those with masks, to rounding.
        """
        b, n, _ = x_BND.shape
        if masks is None:
            assert n == self.times * self.places, f"{n} tokens of a grid of {self.times} x {self.places} need masks"
            by_place = self.temporal_norm1(x_BND).unflatten(1, (self.times, self.places)).transpose(1, 2).flatten(0, 1)
            over_time = self.temporal_attn(by_place).unflatten(0, (b, self.places)).transpose(1, 2).flatten(1, 2)
        else:
            over_time = self.temporal_attn(self.temporal_norm1(x_BND), masks.time_BNN)
        x_BND = x_BND + self.drop_path(over_time)
        if masks is None:
            by_time = self.norm1(x_BND).unflatten(1, (self.times, self.places)).flatten(0, 1)
            over_space = self.attn(by_time).unflatten(0, (b, self.times)).flatten(1, 2)
        else:
            over_space = self.attn(self.norm1(x_BND), masks.space_BNN)
        x_BND = x_BND + self.drop_path(over_space)
        return x_BND + self.drop_path(self.mlp(self.norm2(x_BND)))

    def start_as_spatial(self) -> None:
        """Puts the temporal attention's output projection to zero."""
        nn.init.zeros_(self.temporal_attn.proj.weight)
        nn.init.zeros_(self.temporal_attn.proj.bias)


def blocks(depth: int, dim: int, heads: int, mlp_dim: int, eps: float, drop_path: float = 0.0, *,
           divided: tuple[int, int] | None = None) -> nn.ModuleList:  # fmt: skip
    """A stack of blocks whose stochastic depth grows linearly from 0 to `drop_path`.

    divided: the numbers of time slices and of places, for divided attention; None: joint.
    """
    rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
    if divided is None:
        return nn.ModuleList([Block(dim, heads, mlp_dim, eps, rate) for rate in rates])
    times, places = divided
    return nn.ModuleList([DividedBlock(dim, heads, mlp_dim, eps, rate, times=times, places=places) for rate in rates])


def run_blocks(stack: nn.ModuleList, x_BND: Tensor, *context: object, checkpointing: bool) -> Tensor:
    """x through every block(x, *context); with checkpointing each is computed again in the backward pass."""
    for block in stack:
        if checkpointing and torch.is_grad_enabled():
            x_BND = checkpoint(block, x_BND, *context, use_reentrant=False)
        else:
            x_BND = block(x_BND, *context)
    return x_BND


def xavier(module: nn.Module) -> None:
    """VideoMAE's pretraining initialisation of linear layers; layer norms start at (1, 0) anyway."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
