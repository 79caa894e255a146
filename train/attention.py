"""The parts VideoMAE is made of: fixed positions, cube embedding, attention, block.

Module and parameter names are those of the VideoMAE release (MCG-NJU/VideoMAE), so that its
checkpoints load as they are; train/hf.py maps them to transformers' names.

Shape suffixes: B clips, N tokens, D width, H heads, K values of one cube (p0*p1*p2*channels).
"""

import numpy as np
import torch
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F


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
    """Joint space-time self-attention with learnable query and value biases and no key bias.

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

    def forward(self, x_BND: Tensor) -> Tensor:
        b, n, d = x_BND.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(x_BND, self.qkv.weight, bias)
        q_BHNd, k_BHNd, v_BHNd = qkv.view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed_BHNd = F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd)
        out: Tensor = self.proj(mixed_BHNd.transpose(1, 2).reshape(b, n, d))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)); exact GELU."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, eps: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.drop_path(self.attn(self.norm1(x_BND)))
        return x_BND + self.drop_path(self.mlp(self.norm2(x_BND)))


def blocks(depth: int, dim: int, heads: int, mlp_dim: int, eps: float, drop_path: float = 0.0) -> nn.ModuleList:
    """A stack of blocks whose stochastic depth grows linearly from 0 to `drop_path`."""
    rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
    return nn.ModuleList([Block(dim, heads, mlp_dim, eps, rate) for rate in rates])
