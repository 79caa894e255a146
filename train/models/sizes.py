"""The sizes of VideoMAE's models: each by name, and the one that an experiment asks for."""

import dataclasses
import difflib
from typing import Any, Literal

from schemas.config import Experiment
from schemas.errors import UserError


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
