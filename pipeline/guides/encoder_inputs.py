"""What an open_clip encoder is fed: open_clip's own preprocessing of a picture, on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transform import PreprocessCfg

from pipeline.guides.resize import resize
from schemas.errors import UserError


@dataclass(frozen=True)
class Inputs:
    size: int  # pixels of the side that the encoder takes
    mode: str  # of resizing
    mean_311: torch.Tensor
    std_311: torch.Tensor
    dtype: torch.dtype

    def __call__(self, levels_N3HW: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """float32 levels 0..255 of any size -> normalised, `dtype` [N, 3, height, width]."""
        images = resize(levels_N3HW, height, width, self.mode)
        return ((images / 255 - self.mean_311) / self.std_311).to(self.dtype)


def inputs_of(model: Any, name: str, dtype: torch.dtype, device: torch.device) -> Inputs:
    """As the model's preprocessing says. Raises UserError for pictures that are not square."""
    cfg = PreprocessCfg(**model.visual.preprocess_cfg)
    _, height, width = cfg.input_size
    if height != width:
        raise UserError(f"{name} takes pictures of {height}x{width} pixels; patches are square")
    mode = "bilinear" if cfg.interpolation == "bilinear" else "bicubic"  # as open_clip reads it
    mean_311, std_311 = (torch.tensor(values, device=device).view(3, 1, 1) for values in (cfg.mean, cfg.std))
    return Inputs(height, mode, mean_311, std_311, dtype)
