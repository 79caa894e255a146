"""The paper's embedding of a patch: "patchifying each frame and resizing each patch to full input resolution. We then
take the CLS token as the embedding per patch" (section 3.3). Each cell of the grid is a picture of its own.

What an architecture calls its image embedding (projected class token, or a pooling head) is whatever its encode_image
gives. Batches are filled across the frames of a chunk, not across videos: a video's numbers then depend on nothing but
the video (the last bits of a product depend on how many rows it has), and what fails costs one video only. The price
is a last batch that is not full, once in a chunk of 32 frames: at 336 cells a frame and 1024 crops a batch, half of the
eleventh. It takes the time of the crops that it has; only compiled it is padded, to a half, a quarter, ... of a batch.

Legend: F frames, gh x gw cells, N crops, P pixels of a crop's side, S of the encoder's input, D embedding width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from pipeline.guides.encoder_inputs import Inputs
from pipeline.guides.grid import grid
from pipeline.guides.resize import resize
from pipeline.runtime.device import in_batches
from schemas.config import CROPS_AT_ONCE, Text


class Crops:
    """Cells of `grid_stride` pixels tile the frame, resized to the nearest size that whole ones do; the crop of a
    cell is the square of `patch` pixels about its centre, moved inwards where it would leave the frame."""

    def __init__(self, model: Any, inputs: Inputs, options: Text) -> None:
        self._model, self._inputs, self._options = model, inputs, options
        self.input_size = inputs.size  # pixels
        self.batch_size = options.batch_size or CROPS_AT_ONCE  # lowered when memory runs out
        if options.compile:
            model.visual.compile(dynamic=False)

    def __call__(self, images_F3HW: torch.Tensor) -> torch.Tensor:
        """float32 levels 0..255 [F, 3, H, W] -> float32 [F, gh, gw, D], of length 1."""
        count, _, height, width = images_F3HW.shape
        patch, pitch = self._options.patch, self._options.pitch
        gh, gw = grid(height, width, pitch)
        images_F3HW = resize(images_F3HW, max(gh * pitch, patch), max(gw * pitch, patch))
        rows, columns = (
            crop_pixels(cells, pitch, patch, side).to(images_F3HW.device)
            for cells, side in zip((gh, gw), images_F3HW.shape[2:], strict=True)
        )

        def embed(part: slice) -> torch.Tensor:
            number_N = torch.arange(part.start, part.start + self._room(part), device=images_F3HW.device)
            number_N = number_N.clamp(max=part.stop - 1)
            frame, cell = number_N // (gh * gw), number_N % (gh * gw)
            y, x = rows[cell // gw][:, :, None], columns[cell % gw][:, None]
            crops_N3PP = images_F3HW[frame[:, None, None], :, y, x].permute(0, 3, 1, 2)
            return self.embed(crops_N3PP)[: part.stop - part.start]

        parts, self.batch_size = in_batches(embed, count * gh * gw, self.batch_size, self._options.model)
        return torch.cat(parts).reshape(count, gh, gw, -1)

    def embed(self, crops_N3PP: torch.Tensor) -> torch.Tensor:
        """float32 levels 0..255 [N, 3, P, P] -> float32 [N, D], of length 1."""
        images_N3SS = self._inputs(crops_N3PP, self._inputs.size, self._inputs.size)
        return F.normalize(self._model.encode_image(images_N3SS).float(), dim=-1)

    def _room(self, part: slice) -> int:
        """Crops in a batch. Compiled, few sizes: each is compiled separately, and its numbers must not tell which was
        first."""
        count: int = part.stop - part.start
        size = self.batch_size
        while self._options.compile and size // 2 >= count:
            size //= 2
        return size if self._options.compile and size > count else count


def crop_pixels(cells: int, pitch: int, patch: int, side: int) -> torch.Tensor:
    """Which pixels of a side the crops of its cells take: int64 [cells, patch]."""
    starts = torch.arange(cells) * pitch - (patch - pitch) // 2
    return starts.clamp(0, side - patch)[:, None] + torch.arange(patch)
