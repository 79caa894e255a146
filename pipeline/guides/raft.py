"""RAFT of torchvision as an engine of optical flow: MGMAE's, with weights by name or from a file.

Shapes: N pairs of frames, H x W pixels; 2: (x, y), pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torchvision.models import get_model, get_model_weights

from pipeline.guides import Floats, Frames
from pipeline.runtime.device import in_batches, torch_device
from schemas.config import PAIRS_AT_ONCE, Flow
from schemas.errors import UserError, choice_error

SMALLEST = 128  # pixels of a side: RAFT takes an eighth of it and halves that three times
MULTIPLE = 8


class Raft:
    """Raises UserError when the weights cannot be loaded."""

    def __init__(self, options: Flow) -> None:
        self._options = options
        self.batch_size = options.batch_size or PAIRS_AT_ONCE  # pairs; lowered when memory runs out
        self._device = torch_device(options.device)
        self._model = _load(options).eval().to(self._device)

    @torch.inference_mode()
    def __call__(self, from_NHW3: Frames, to_NHW3: Frames) -> Floats:
        before_N3HW, after_N3HW = self._prepared(from_NHW3), self._prepared(to_NHW3)
        parts, self.batch_size = in_batches(
            lambda part: self._model(before_N3HW[part], after_N3HW[part], self._options.iterations)[-1],
            len(before_N3HW),
            self.batch_size,
            f"flow.model = {self._options.model}",
        )
        height, width = from_NHW3.shape[1:3]
        return torch.cat(parts)[:, :, :height, :width].permute(0, 2, 3, 1).cpu().numpy()

    def _prepared(self, frames_NHW3: Frames) -> torch.Tensor:
        """-1 to 1, [N, 3, H, W]; below and to the right the edge is repeated up to a size that RAFT takes."""
        images_N3HW = torch.from_numpy(frames_NHW3).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
        height, width = (max(SMALLEST, -(-side // MULTIPLE) * MULTIPLE) for side in images_N3HW.shape[2:])
        beyond = (0, width - images_N3HW.shape[3], 0, height - images_N3HW.shape[2])
        return F.pad(images_N3HW, beyond, mode="replicate")


def _load(options: Flow) -> Any:
    path = Path(options.weights)
    if not path.is_file():
        known = get_model_weights(options.model)
        if options.weights not in known.__members__:
            raise choice_error("flow.weights (or the path of a file)", options.weights, known.__members__)
        try:
            return get_model(options.model, weights=known[options.weights])
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot fetch {options.weights} of {options.model}: {error}. Give flow.weights the path of a file, or "
                "flow.engine = 'dis', which needs none"
            ) from error
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        model = get_model(options.model, weights=None)
        model.load_state_dict(tensors)
    except Exception as error:  # of a file that may hold anything
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"flow.weights: {path} holds no weights of torchvision's {options.model}: {reason}") from error
    return model
