"""The cheap embedding of a patch: one pass of the whole frame, at a higher resolution than the encoder was made for.

A token of a CLIP's last block has gathered from everywhere: what it says is not about its place. What the literature
does about it, all in the last block and without training (`text.attention`, `text.last_block`):
- value: each token takes its own value alone, no attention (Zhou et al. 2022, MaskCLIP);
- query-query, or query-query+key-key, which is SCLIP's (Wang et al. 2024): tokens look at those that are alike;
- last_block = "attention": neither residual nor feed-forward follows (Lan et al. 2024, ClearCLIP, with query-query).

Legend: F frames, th x tw tokens, L = th * tw, gh x gw cells, W the tower's width, D embedding width.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import Format
from timm.models.vision_transformer import VisionTransformer as TimmTransformer

from pipeline.guides.encoder_inputs import Inputs
from pipeline.guides.grid import grid
from pipeline.guides.resize import filter_matrix
from pipeline.runtime.device import in_batches
from schemas.config import CROPS_AT_ONCE, Text
from schemas.errors import UserError


class Tower(Protocol):
    patch: int  # pixels

    def __call__(self, images_F3HW: torch.Tensor) -> torch.Tensor:
        """Normalised pictures of whole patches -> [F, th, tw, D]: each token's embedding in the space of texts."""
        ...


class Dense:
    """The tokens' embeddings, resampled to the grid: bilinear, with antialias where there are more tokens than cells.

    Raises UserError for an encoder that has no embeddings of tokens.
    """

    def __init__(self, model: Any, inputs: Inputs, options: Text) -> None:
        self._inputs, self._options = inputs, options
        self._tower = make_tower(model.visual, options)
        self.token_size = self._tower.patch  # pixels of what the encoder sees
        self.batch_size = options.batch_size or CROPS_AT_ONCE

    @property
    def batch_size(self) -> int:
        """Frames of the encoder's own size at once; lowered when memory runs out."""
        return self._pixels // self._inputs.size**2

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._pixels = size * self._inputs.size**2

    def __call__(self, images_F3HW: torch.Tensor) -> torch.Tensor:
        """float32 levels 0..255 [F, 3, H, W] -> float32 [F, gh, gw, D], of length 1."""
        count, _, height, width = images_F3HW.shape
        gh, gw = grid(height, width, self._options.pitch)
        side = self._tower.patch
        th, tw = tokens(height, width, side, self._options)

        def embed(part: slice) -> torch.Tensor:
            tokens_FhwD = self._tower(self._inputs(images_F3HW[part], th * side, tw * side))
            return F.normalize(resample(tokens_FhwD.float(), gh, gw), dim=-1)

        room = max(1, self._pixels // (th * tw * side**2))
        parts, fits = in_batches(embed, count, room, self._options.model)
        if fits < room:
            self._pixels = fits * th * tw * side**2
        return torch.cat(parts)


def tokens(height: int, width: int, side: int, options: Text) -> tuple[int, int]:
    """Tokens of `side` pixels along each side of a frame: one a patch, or as many as `resolution` makes."""
    scale = options.resolution / min(height, width) if options.resolution else side / options.patch
    return grid(height * scale, width * scale, side)


def resample(tokens_FhwD: torch.Tensor, gh: int, gw: int) -> torch.Tensor:
    """[F, th, tw, D] -> [F, gh, gw, D]"""
    th, tw = tokens_FhwD.shape[1:3]
    rows, columns = (filter_matrix(*sides, "bilinear", tokens_FhwD.device) for sides in ((th, gh), (tw, gw)))
    return torch.einsum("yh,xw,fhwd->fyxd", rows, columns, tokens_FhwD)


def make_tower(visual: Any, options: Text) -> Tower:
    """Raises UserError for a tower that has no embeddings of tokens, or not with this attention."""
    if isinstance(visual, VisionTransformer):
        return ClipTower(visual, options)
    if isinstance(visual, TimmModel):
        return TimmTower(visual, options)
    raise UserError(
        f"{options.model} is no vision transformer but a {type(visual).__name__}: set text.method = 'crops'"
    )


class ClipTower:
    """open_clip's own vision transformer."""

    def __init__(self, visual: VisionTransformer, options: Text) -> None:
        if visual.attn_pool is not None:
            raise UserError(f"{options.model} pools its tokens by attention (CoCa): set text.method = 'crops'")
        self._changed = (options.attention, options.last_block) != ("original", "whole")
        if self._changed and not isinstance(visual.transformer.resblocks[-1].attn, torch.nn.MultiheadAttention):
            raise UserError(
                f"{options.model} has an attention of its own kind: set text.attention = 'original' and "
                "text.last_block = 'whole', or text.method = 'crops'"
            )
        self._visual, self._attention, self._bare = visual, options.attention, options.last_block == "attention"
        self.patch = square(visual.patch_size, options.model)

    def __call__(self, images_F3HW: torch.Tensor) -> torch.Tensor:
        rows, columns = (side // self.patch for side in images_F3HW.shape[2:])
        return self.tokens(images_F3HW)[:, 1:].unflatten(1, (rows, columns))

    def tokens(self, images_F3HW: torch.Tensor) -> torch.Tensor:
        """[F, 1 + L, D]: the class token's embedding first, the picture's where nothing is changed."""
        visual = self._visual
        x_FhwW = visual.conv1(images_F3HW).movedim(1, -1)
        first = visual.class_embedding.to(x_FhwW.dtype).expand(len(x_FhwW), 1, -1)
        x_FLW = torch.cat([first, x_FhwW.flatten(1, 2)], dim=1)
        x_FLW = x_FLW + self._positions(*x_FhwW.shape[1:3]).to(x_FLW.dtype)
        x_FLW = visual.ln_pre(x_FLW)
        for block in visual.transformer.resblocks[:-1]:
            x_FLW = block(x_FLW)
        last = visual.transformer.resblocks[-1]
        x_FLW = changed(last, x_FLW, self._attention, self._bare) if self._changed else last(x_FLW)
        return visual.ln_post(x_FLW) @ visual.proj

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """[1 + L, W], interpolated as open_clip does when it loads a model for another size."""
        known = self._visual.positional_embedding
        if (rows, columns) == self._visual.grid_size:
            return known
        grid_1Whw = known[1:].float().unflatten(0, self._visual.grid_size).movedim(-1, 0)[None]
        wanted_1Whw = F.interpolate(grid_1Whw, size=(rows, columns), mode="bicubic", antialias=True)
        return torch.cat([known[:1], wanted_1Whw[0].flatten(1).T.to(known.dtype)])


def changed(block: Any, x_FLW: torch.Tensor, attention: str, bare: bool) -> torch.Tensor:
    """A residual attention block of open_clip's with another attention; `bare`: what its attention gives, alone."""
    attn = block.attn
    projected = F.linear(block.ln_1(x_FLW), attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1))
    pairs = {"original": [(q, k)], "query-query": [(q, q)], "query-query+key-key": [(q, q), (k, k)]}
    looks = [F.scaled_dot_product_attention(a, b, v) for a, b in pairs.get(attention, [])] or [v]
    out_FLW = block.ls_1(attn.out_proj(sum(looks[1:], looks[0]).transpose(1, 2).flatten(2)))
    if bare:
        return out_FLW
    x_FLW = x_FLW + out_FLW
    return x_FLW + block.ls_2(block.mlp(block.ln_2(x_FLW)))


class TimmTower:
    """timm's vision transformer inside open_clip, without a class token (SigLIP): each token pooled as if it were
    alone, so that the attention pool passes on its value (MaskCLIP's way with such a pool)."""

    def __init__(self, visual: TimmModel, options: Text) -> None:
        trunk = visual.trunk
        if type(trunk) is not TimmTransformer or trunk.num_prefix_tokens or getattr(visual.head, "pool", None):
            raise UserError(
                f"the picture tower of {options.model} ({type(trunk).__name__}) has no embeddings of tokens in the "
                "space of texts: set text.method = 'crops'"
            )
        if (options.attention, options.last_block) != ("value", "whole"):
            raise UserError(
                f"{options.model} pools its tokens by attention, so the only way is text.attention = 'value' "
                f"and text.last_block = 'whole', not {options.attention!r} and {options.last_block!r}"
            )
        self._head, self._trunk = visual.head, trunk
        self.patch = square(trunk.patch_embed.patch_size, options.model)
        # As timm makes a model with dynamic_img_size: any size, positions interpolated.
        trunk.dynamic_img_size = True  # type: ignore[misc]
        embed = trunk.patch_embed
        embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC

    def __call__(self, images_F3HW: torch.Tensor) -> torch.Tensor:
        rows, columns = (side // self.patch for side in images_F3HW.shape[2:])
        tokens_FLW = self._trunk.forward_features(images_F3HW)
        alone = self._head(self._trunk.forward_head(tokens_FLW.flatten(0, 1)[:, None]))
        return alone.unflatten(0, (-1, rows, columns))


def square(patch: tuple[int, int], model: str) -> int:
    if patch[0] != patch[1]:
        raise UserError(f"{model} has patches of {patch[0]}x{patch[1]} pixels: set text.method = 'crops'")
    return patch[0]
