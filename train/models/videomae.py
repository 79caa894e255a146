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

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.config import Experiment
from schemas.errors import UserError
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
from train.models.cubes import clip_from_cubes, cubes_from_clip, gather_tokens, normalise

__all__ = ["PRESETS", "Classifier", "Encoder", "PretrainModel", "PretrainOutput", "VideoMAEConfig",
           "clip_from_cubes", "cubes_from_clip", "gather_tokens", "model_config", "split_mask"]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoMAEConfig:
    """Sizes of a model; the defaults are VideoMAE ViT-B. frames = tubelet = 1 is the image mode.

    eps is the layer norms', except that of the two norms before a head (decoder.norm and
    fc_norm), which is head_eps: VideoMAE uses 1e-6 there too, but transformers has torch's 1e-5
    written into its code. Training with 1e-5 makes an exported model give the outputs it was
    trained with (docs/faithfulness.md).

    attention is the encoder's; the decoder's is joint. A divided decoder would save little, as it is
    narrow and shallow, and is thrown away.
    """

    image_size: int = 224
    patch_size: int = 16
    frames: int = 16
    tubelet: int = 2
    in_chans: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    decoder_dim: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    decoder_mlp_ratio: float = 4.0
    eps: float = 1e-6
    head_eps: float = 1e-5
    attention: Literal["joint", "divided"] = "joint"
    drop_path: float = 0.0
    checkpointing: bool = False  # recompute blocks in the backward pass: less memory, about a third more time

    def __post_init__(self) -> None:
        for whole, part in (("image_size", "patch_size"), ("frames", "tubelet"),
                            ("dim", "heads"), ("decoder_dim", "decoder_heads")):  # fmt: skip
            a, b = getattr(self, whole), getattr(self, part)
            if a < 1 or b < 1 or a % b:
                raise ValueError(f"{whole}={a} must be a positive multiple of {part}={b}")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "VideoMAEConfig":
        """A named size with some fields changed; ValueError for a name that is not in PRESETS."""
        if name not in PRESETS:
            near = difflib.get_close_matches(name, PRESETS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no model size {name!r}: the sizes are {', '.join(PRESETS)}{hint}")
        return cls(**{**PRESETS[name], **changes})

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along (time, rows, columns): (8, 14, 14) for 16 frames of 224 x 224."""
        side = self.image_size // self.patch_size
        return self.frames // self.tubelet, side, side

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def cube_values(self) -> int:
        """K: 1536 for a 2 x 16 x 16 cube of colour."""
        return self.tubelet * self.patch_size**2 * self.in_chans

    @property
    def mlp_dim(self) -> int:
        return round(self.dim * self.mlp_ratio)

    @property
    def decoder_mlp_dim(self) -> int:
        return round(self.decoder_dim * self.decoder_mlp_ratio)


# Sizes of VideoMAE (S to H; decoder depth as in its Kinetics-400 scripts) and VideoMAE v2 (giant).
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"image_size": 64, "patch_size": 8, "frames": 8, "dim": 96, "depth": 4, "heads": 3,
             "decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 2},
    "small": {"dim": 384, "heads": 6, "decoder_dim": 192, "decoder_heads": 3},
    "base": {},
    "large": {"dim": 1024, "depth": 24, "heads": 16, "decoder_dim": 512, "decoder_depth": 12, "decoder_heads": 8},
    "huge": {"dim": 1280, "depth": 32, "heads": 16, "decoder_dim": 640, "decoder_depth": 12, "decoder_heads": 8},
    "giant": {"patch_size": 14, "dim": 1408, "depth": 40, "heads": 16, "mlp_ratio": 48 / 11,
              "decoder_dim": 512, "decoder_heads": 8, "decoder_mlp_ratio": 48 / 11},
}  # fmt: skip


def model_config(experiment: Experiment) -> VideoMAEConfig:
    """Sizes of the experiment's model: the preset's widths and depths, the experiment's clip and patch.

    Errors: UserError for sizes that do not fit one another.
    """
    clip, model = experiment.clip, experiment.model
    changes = {"decoder_depth": model.decoder_depth} if model.decoder_depth else {}
    try:
        return VideoMAEConfig.preset(
            model.size, image_size=clip.size, patch_size=model.patch, frames=clip.frames, tubelet=model.tubelet,
            attention=model.attention, checkpointing=model.checkpoint_activations, **changes,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"model and clip do not fit: {error}") from error


@torch.compiler.disable  # type: ignore[untyped-decorator]
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
        """Draws the blocks' weights anew by `linear`; temporal attention starts at zero (attention.DividedBlock)."""
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
