"""ARVideo: the pixels of one cluster of cubes after the other, in a random order (Ren et al. 2024).

The grid of tokens is cut into K clusters of S tokens, 16 of 2 x 7 x 7 for VideoMAE's clip. In the clip's
order of clusters, the encoder (VideoMAE's own) sees a fifth of the tokens of all but the last, each
cluster attending to itself and to those before it. The decoder predicts every pixel of the second
cluster to the last: its queries are one learned vector and the target's position, and attend to the
encoder's tokens of earlier clusters, never to one another.

Choices where the paper leaves room (no code was published):
- Queries: its table 5 says 1372 = 14 x 98, its text that every next cluster is predicted, which is
  15 x 98 = 1470: the text is followed. The first cluster has nothing before it and is no target.
- Order and dropped tokens are drawn per clip and epoch by the stream, like masks are.
- The decoder's position of its token is added to what the encoder says of it, as VideoMAE does.

Shape suffixes: B clips; K clusters, S tokens of one; V encoded tokens, M predicted ones, both in the
clip's order of clusters; D width of the encoder, E of the decoder, H heads.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.config import ARVideo
from schemas.errors import UserError
from train.models.attention import Mlp, run_blocks, sinusoid_positions, xavier
from train.models.cubes import gather_tokens
from train.models.sizes import VideoMAEConfig
from train.models.videomae import Encoder, PretrainOutput

Ints = NDArray[np.int64]
Grid = tuple[int, int, int]


class Clusters(NamedTuple):
    """The token grid in clusters."""

    grid: Grid  # of clusters, along time, rows, columns
    tokens_KS: Ints  # numbers of the tokens of each, both in order (time, row, column)


class Drawn(NamedTuple):
    """What one clip's encoder sees and its decoder predicts, in its order of clusters."""

    visible_index_V: Ints  # the kept tokens of all clusters but the last
    target_index_M: Ints  # all tokens of all clusters but the first

    def unseen(self, grid: Grid) -> NDArray[np.bool_]:
        """True where the encoder sees nothing, bool of the grid's shape: what a mask would say."""
        unseen_N = np.ones(math.prod(grid), np.bool_)
        unseen_N[self.visible_index_V] = False
        return unseen_N.reshape(grid)


def cut(grid: Grid, cluster: Grid) -> Clusters:
    """Errors: UserError where clusters do not fill the grid, or where it is a single one."""
    if any(side % part for side, part in zip(grid, cluster, strict=True)) or grid == tuple(cluster):
        raise UserError(
            f"arvideo.cluster = {list(cluster)} does not cut the clip's {' x '.join(map(str, grid))} tokens (time, "
            "rows, columns) into two or more equal parts: choose divisors of these numbers"
        )
    (t, h, w), (ct, ch, cw) = grid, cluster
    number = np.arange(t * h * w, dtype=np.int64).reshape(t // ct, ct, h // ch, ch, w // cw, cw)
    return Clusters((t // ct, h // ch, w // cw), number.transpose(0, 2, 4, 1, 3, 5).reshape(-1, ct * ch * cw))


def kept_tokens(tokens: int, drop: float) -> int:
    """How many of a cluster's tokens the encoder sees: 20 of 98 at 0.8; dropped ones rounded, a half upwards."""
    return max(tokens - math.floor(Fraction(str(float(drop))) * tokens + Fraction(1, 2)), 1)


def draw(grid: Grid, options: ARVideo, rng: np.random.Generator) -> Drawn:
    """One clip's order of clusters and its dropped tokens. Errors: UserError, see cut."""
    clusters = cut(grid, options.cluster)
    count, size = clusters.tokens_KS.shape
    order_K = np.arange(count)  # spatial-first: all places, then on in time
    if options.order == "temporal-first":
        order_K = order_K.reshape(clusters.grid).transpose(1, 2, 0).reshape(-1)
    elif options.order == "random":
        order_K = rng.permutation(count)
    ordered_KS = clusters.tokens_KS[order_K]
    kept = np.sort(np.argsort(rng.random((count - 1, size)), axis=1)[:, : kept_tokens(size, options.drop)], axis=1)
    return Drawn(np.take_along_axis(ordered_KS[:-1], kept, axis=1).reshape(-1), ordered_KS[1:].reshape(-1))


class CrossAttention(nn.Module):
    """Of queries over a memory. No key bias, see attention.Attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BME: Tensor, memory_BVE: Tensor, mask_BMV: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q(x_BME), self.k(memory_BVE), self.v(memory_BVE))
        )
        mixed_BHMd = F.scaled_dot_product_attention(q, k, v, mask_BMV.unsqueeze(1))
        out: Tensor = self.proj(mixed_BHMd.transpose(1, 2).flatten(2))
        return out


class CrossBlock(nn.Module):
    """Pre-norm: x + cross-attention(norm(x), memory), then x + mlp(norm(x)). The memory is normed by its maker."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x_BME: Tensor, memory_BVE: Tensor, mask_BMV: Tensor) -> Tensor:
        x_BME = x_BME + self.attn(self.norm1(x_BME), memory_BVE, mask_BMV)
        out: Tensor = x_BME + self.mlp(self.norm2(x_BME))
        return out


class CrossDecoder(nn.Module):
    """Blocks of cross-attention, then pixels."""

    def __init__(self, options: ARVideo, config: VideoMAEConfig) -> None:
        super().__init__()
        dim, self.checkpointing = options.decoder_dim, config.checkpointing
        self.blocks = nn.ModuleList(
            [CrossBlock(dim, options.decoder_heads, config.eps) for _ in range(options.decoder_depth)]
        )
        self.norm = nn.LayerNorm(dim, eps=config.head_eps)
        self.head = nn.Linear(dim, config.cube_values)
        self.apply(xavier)

    def forward(self, x_BME: Tensor, memory_BVE: Tensor, mask_BMV: Tensor) -> Tensor:
        x_BME = run_blocks(self.blocks, x_BME, memory_BVE, mask_BMV, checkpointing=self.checkpointing)
        out: Tensor = self.head(self.norm(x_BME))
        return out


class ARVideoModel(nn.Module):
    """The encoder of VideoMAE, under the names it has in PretrainModel, and a decoder of cross-attention."""

    positions: Tensor
    encoder_mask_1VV: Tensor
    decoder_mask_1MV: Tensor

    def __init__(self, config: VideoMAEConfig, options: ARVideo) -> None:
        """Errors: UserError for clusters that do not fit the grid, or heads that do not fit decoder_dim."""
        super().__init__()
        self.config, dim = config, options.decoder_dim
        self.encoder = Encoder(config)
        self.encoder_to_decoder = nn.Linear(config.dim, dim, bias=False)
        self.query = nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.query, std=0.02, a=-0.02, b=0.02)
        self.decoder = CrossDecoder(options, config)
        self.register_buffer("positions", sinusoid_positions(config.tokens, dim), persistent=False)
        # Tokens come in their clip's order of clusters, so the masks are the same for all.
        count, size = cut(config.grid, options.cluster).tokens_KS.shape
        rank_V = torch.arange(count - 1).repeat_interleave(kept_tokens(size, options.drop))
        rank_M = torch.arange(1, count).repeat_interleave(size)
        self.register_buffer("encoder_mask_1VV", (rank_V[:, None] >= rank_V).unsqueeze(0), persistent=False)
        self.register_buffer("decoder_mask_1MV", (rank_M[:, None] > rank_V).unsqueeze(0), persistent=False)

    def forward_split(self, x: Tensor, visible_index_BV: Tensor, target_index_BM: Tensor) -> PretrainOutput:
        """As PretrainModel.forward_split, on the tokens that `draw` gives."""
        encoded_BVD = self.encoder(x, visible_index_BV, self.encoder_mask_1VV)
        positions = self.positions.expand(len(x), -1, -1)
        memory_BVE = self.encoder_to_decoder(encoded_BVD) + gather_tokens(positions, visible_index_BV)
        queries_BME = self.query + gather_tokens(positions, target_index_BM)
        predicted_BMK = self.decoder(queries_BME, memory_BVE, self.decoder_mask_1MV)
        return PretrainOutput(predicted_BMK, encoded_BVD, target_index_BM)
