"""VideoMAE's encoder and light decoder, weight for weight (paper section 3.1, equations 1 to 3).

Parameter names are those of the VideoMAE release, so its checkpoints load as they are.
Hidden cubes are dropped before the embedding: they cost the encoder nothing.

    model = PretrainModel(VideoMAEConfig.preset("base"))
    out = model(clip_BTHWC, mask_BN)           # uint8 pixels; mask true = hidden
    features_BND = model.encoder(clip_BTHWC)   # every token

Shape suffixes: B clips, T frames, H rows, W columns, C channels; N tokens of a clip, ordered
(time, row, column); V visible and M hidden ones of them; K values of one cube, ordered
(frame, row, column, channel), channel fastest; D width of the encoder, E of the decoder.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.models.attention import (
    CubeEmbed,
    DividedBlock,
    Masks,
    blocks,
    divided_masks,
    run_blocks,
    sinusoid_positions,
    xavier,
)
from train.models.cubes import cubes_from_clip, gather_tokens, normalise
from train.models.sizes import VideoMAEConfig


def split_mask(mask_BN: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Indices of the visible and of the hidden tokens, ascending: int64 [B, V] and [B, M].

    Reads the count of hidden tokens, so a mask on the GPU costs a synchronisation: hand the
    mask over on the CPU. Errors: ValueError when the mask does not fit the clip, when rows hide
    different numbers of tokens, or when none or all are hidden.
    """
    if mask_BN.dtype != torch.bool or mask_BN.ndim != 2 or mask_BN.shape[1] != tokens:
        raise ValueError(f"a mask is bool [B, {tokens}], true = hidden; got {mask_BN.dtype} {list(mask_BN.shape)}")
    counts = mask_BN.sum(1).tolist()
    if len(set(counts)) != 1:
        raise ValueError(
            f"every clip of a batch must hide the same number of tokens, these hide {counts}: "
            "make all masks of a batch with the same ratio"
        )
    if counts[0] in (0, tokens):
        raise ValueError(f"a mask must hide some tokens and leave some: {counts[0]} of {tokens} are hidden")
    order = mask_BN.to(torch.uint8).argsort(dim=1, stable=True)
    return order[:, : tokens - counts[0]], order[:, tokens - counts[0] :]


class Encoder(nn.Module):
    """phi of equation 3. Without final_norm, the encoder of VideoMAE's fine-tuning model."""

    positions: Tensor

    def __init__(self, config: VideoMAEConfig, *, final_norm: bool = True) -> None:
        super().__init__()
        c = self.config = config
        self.patch_embed = CubeEmbed(c.in_chans, c.dim, c.tubelet, c.patch_size)
        divided = (c.grid[0], c.grid[1] * c.grid[2]) if c.attention == "divided" else None
        self.blocks = blocks(c.depth, c.dim, c.heads, c.mlp_dim, c.eps, c.drop_path, divided=divided)
        self.norm = nn.LayerNorm(c.dim, eps=c.eps) if final_norm else nn.Identity()
        self.register_buffer("positions", sinusoid_positions(c.tokens, c.dim), persistent=False)
        # The release leaves the convolution at torch's default and Xavier-initialises the rest.
        self.initialise(xavier)

    def initialise(self, linear: Callable[[nn.Module], None]) -> None:
        """Draws the blocks' weights again by `linear`; temporal attention starts at zero (attention.DividedBlock)."""
        self.blocks.apply(linear)
        for block in self.blocks:
            if isinstance(block, DividedBlock):
                block.start_as_spatial()

    def forward(self, x: Tensor, visible_index_BV: Tensor | None = None, allowed_BVV: Tensor | None = None) -> Tensor:
        """Encode the visible tokens, or all, in the order of their indices: [B, V, D].

        x: a clip [B, T, H, W, C] or cubes [B, N, K]. uint8 is normalised here, after the hidden
        cubes are gone; floating values are taken to be normalised already. allowed_BVV: bool, true where
        the row's token may attend to the column's; None: everywhere.
        Errors: ValueError when x is not of the configured size.
        """
        c = self.config
        cubes = cubes_from_clip(x, c.patch_size, c.tubelet) if x.ndim == 5 else x
        if cubes.ndim != 3 or tuple(cubes.shape[1:]) != (c.tokens, c.cube_values):
            raise ValueError(
                f"expected a clip [B, {c.frames}, {c.image_size}, {c.image_size}, {c.in_chans}] or cubes "
                f"[B, {c.tokens}, {c.cube_values}], got {list(x.shape)}: change image_size or frames of the "
                "config (positions are fixed, so any size works without retraining them)"
            )
        positions = self.positions.expand(len(cubes), -1, -1)
        if visible_index_BV is not None:
            cubes = gather_tokens(cubes, visible_index_BV)
            positions = gather_tokens(positions, visible_index_BV)
        if not cubes.is_floating_point():
            assert c.in_chans == 3, "only colour can be normalised here: hand over normalised floats"
            cubes = normalise(cubes)
        # Positions are float32, so under autocast the residual stream is too (as in timm).
        x_BVD = self.patch_embed(cubes)
        x_BVD = run_blocks(
            self.blocks, x_BVD + positions, self._masks(visible_index_BV, allowed_BVV), checkpointing=c.checkpointing
        )
        out: Tensor = self.norm(x_BVD)
        return out

    def _masks(self, visible_index_BV: Tensor | None, allowed_BVV: Tensor | None) -> Masks | None:
        """None where every token of the grid attends to all of its set."""
        if self.config.attention == "joint":
            return None if allowed_BVV is None else Masks(joint_BNN=allowed_BVV)
        if visible_index_BV is None:
            assert allowed_BVV is None, "a further condition needs the tokens' numbers"
            return None
        return divided_masks(visible_index_BV, self.config.grid[1] * self.config.grid[2], allowed_BVV)


class Decoder(nn.Module):
    """xi of equation 3: a few narrow blocks, then the pixels of the last tokens."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        c = self.config = config
        self.blocks = blocks(c.decoder_depth, c.decoder_dim, c.decoder_heads, c.decoder_mlp_dim, c.eps)
        self.norm = nn.LayerNorm(c.decoder_dim, eps=c.head_eps)
        self.head = nn.Linear(c.decoder_dim, c.cube_values)
        self.apply(xavier)

    def forward(self, x_BNE: Tensor, last: int) -> Tensor:
        """Predicted pixels of the last `last` tokens: [B, last, K]."""
        x_BNE = run_blocks(self.blocks, x_BNE, checkpointing=self.config.checkpointing)
        out: Tensor = self.head(self.norm(x_BNE[:, -last:]))
        return out


class PretrainOutput(NamedTuple):
    prediction_BMK: Tensor  # pixels of the hidden tokens, in the layout of losses.pixel_target
    encoded_BVD: Tensor  # encoder output of the visible tokens: its mean is v of paper section 3.4
    hidden_index_BM: Tensor  # int64, which tokens were predicted


class PretrainModel(nn.Module):
    """VideoMAE for pretraining. The decoder sees visible tokens first, then mask tokens."""

    positions: Tensor

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        c = self.config = config
        self.encoder = Encoder(c)
        self.encoder_to_decoder = nn.Linear(c.dim, c.decoder_dim, bias=False)  # torch's default, as released
        self.mask_token = nn.Parameter(torch.empty(1, 1, c.decoder_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        self.decoder = Decoder(c)
        self.register_buffer("positions", sinusoid_positions(c.tokens, c.decoder_dim), persistent=False)

    def forward(self, x: Tensor, mask_BN: Tensor) -> PretrainOutput:
        """x: see Encoder.forward. mask_BN: bool, true = hidden, best on the CPU (see split_mask)."""
        visible, hidden = split_mask(mask_BN, self.config.tokens)
        return self.forward_split(x, visible.to(x.device, non_blocking=True), hidden.to(x.device, non_blocking=True))

    def forward_split(self, x: Tensor, visible_index_BV: Tensor, hidden_index_BM: Tensor) -> PretrainOutput:
        """The same from token indices: static shapes and no synchronisation, for torch.compile."""
        encoded = self.encoder(x, visible_index_BV)
        visible_BVE = self.encoder_to_decoder(encoded)
        positions = self.positions.expand(len(x), -1, -1)
        visible_BVE = visible_BVE + gather_tokens(positions, visible_index_BV)
        hidden_BME = self.mask_token + gather_tokens(positions, hidden_index_BM)
        decoded = self.decoder(torch.cat((visible_BVE, hidden_BME), dim=1), hidden_index_BM.shape[1])
        return PretrainOutput(decoded, encoded, hidden_index_BM)


class Classifier(nn.Module):
    """VideoMAE's fine-tuning model: mean over the last block's tokens, norm, linear head."""

    def __init__(self, config: VideoMAEConfig, classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.classes, self.dropout = config, classes, dropout
        self.encoder = Encoder(config, final_norm=False)
        self.fc_norm = nn.LayerNorm(config.dim, eps=config.head_eps)
        self.head = nn.Linear(config.dim, classes)
        self.encoder.initialise(_truncated_normal)
        _truncated_normal(self.head)
        with torch.no_grad():  # the release's init_scale: begin with almost equal class scores
            self.head.weight.mul_(0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [B, classes]; x: see Encoder.forward."""
        pooled_BD = self.fc_norm(self.encoder(x).mean(1))
        out: Tensor = self.head(F.dropout(pooled_BD, self.dropout, self.training))
        return out

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Take the encoder out of a PretrainModel's state dict; its final norm is not used here.

        Errors: RuntimeError (torch's, naming the keys) when the sizes differ.
        """
        wanted = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
        self.encoder.load_state_dict({k: v for k, v in wanted.items() if not k.startswith("norm.")})


def _truncated_normal(module: nn.Module) -> None:
    """VideoMAE's fine-tuning initialisation of linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
