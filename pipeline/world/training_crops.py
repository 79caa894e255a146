"""Crops of frames at every scale, and how far each phrase holds of each crop: what the dual encoder learns from.

Legend: B crops, P phrases, C colours, S shapes, G backgrounds.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.world.dataset import BACKGROUND_NAMES, COLOUR_NAMES, SHAPE_NAMES, Frames
from pipeline.world.vocabulary import Phrase

FROM_COVERAGE, FROM_PRESENCE = 32, 80
"""Crop sides in px at 128 px frames. Up to the first a crop counts for what covers it; from the second on, a thing
counts for being whole in it, however small; in between, a mix."""

SHAPES_FROM, SHAPES_BY = 8, 28
"""Crop sides in px at 128 px frames between which the pattern inside comes to tell one shape from another."""


@dataclass(frozen=True)
class Crops:
    """images: float32 [B, 3, n, n], 0 to 1; weights, 0 to 1: things [B, C, S], named [B], background [B, G]."""

    images: torch.Tensor
    things: torch.Tensor
    named: torch.Tensor
    background: torch.Tensor
    sees_shape: float  # 0: too close to tell one shape from another; 1: plain to see

    def agreement(self, phrases: list[Phrase]) -> torch.Tensor:
        """float32 [B, P]: the weight in each crop of what each phrase names."""
        columns = [self._agreement(phrase) for phrase in phrases]
        return torch.stack(columns, dim=1)

    def _agreement(self, phrase: Phrase) -> torch.Tensor:
        behind = torch.zeros_like(self.named)
        if phrase.background is not None:
            behind = self.background[:, BACKGROUND_NAMES.index(phrase.background)]
        if phrase.colour is None and phrase.shape is None:
            return self.named if phrase.moves else behind
        things = self.things
        if phrase.colour is not None:
            things = things[:, [COLOUR_NAMES.index(phrase.colour)]]
        if phrase.shape is not None:
            fits = torch.full((len(SHAPE_NAMES),), 1 - self.sees_shape)
            fits[SHAPE_NAMES.index(phrase.shape)] = 1
            things = things * fits
        return things.sum(dim=(1, 2)) + 0.1 * behind


def cut_crops(frames: Frames, rows: np.ndarray, side: int, output: int, rng: np.random.Generator) -> Crops:
    """One square crop of `side` px from each frame in rows, resized to `output` px.

    Half of them lie on or near a thing, mostly the named one, where a score map has its border; half lie anywhere.
    """
    height, width = frames.ids.shape[1:]
    tops, lefts = rng.integers(0, height - side + 1, len(rows)), rng.integers(0, width - side + 1, len(rows))
    for n, row in enumerate(rows):
        if rng.random() < 0.5:
            ids = frames.ids[row]
            present = np.flatnonzero(ids == 1) if rng.random() < 0.7 else np.flatnonzero(ids)
            if len(present):
                y, x = divmod(int(rng.choice(present)), width)
                tops[n] = np.clip(y - rng.integers(-side // 4, side + side // 4), 0, height - side)
                lefts[n] = np.clip(x - rng.integers(-side // 4, side + side // 4), 0, width - side)
    window = np.arange(side)
    where = rows[:, None, None], (tops[:, None] + window)[:, :, None], (lefts[:, None] + window)[:, None]
    images = torch.from_numpy(frames.pixels[where]).permute(0, 3, 1, 2).float() / 255
    if side != output:
        images = F.interpolate(images, size=(output, output), mode="bicubic", antialias=True).clamp(0, 1)
    closeness = np.clip((side - FROM_COVERAGE) / (FROM_PRESENCE - FROM_COVERAGE), 0, 1)
    sees_shape = np.clip((side - SHAPES_FROM) / (SHAPES_BY - SHAPES_FROM), 0, 1)
    return Crops(images, *_weights(frames, rows, frames.ids[where], float(closeness)), sees_shape=float(sees_shape))


def roughen(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Light, contrast, blur and grain, as cameras and codecs change them, but no new hue; [B, 3, n, n] -> the same."""
    count = len(images)
    gain, offset = 1 + 0.12 * (2 * _draw(rng, count) - 1), 0.05 * (2 * _draw(rng, count) - 1)
    images = images * gain + offset
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.lerp(images, blurred, _draw(rng, count))
    grain = 0.03 * _draw(rng, count) * torch.randn(images.shape, generator=rng)
    return (images + grain).clamp(0, 1)


def _draw(rng: torch.Generator, count: int) -> torch.Tensor:
    return torch.rand(count, 1, 1, 1, generator=rng)


def _weights(
    frames: Frames, rows: np.ndarray, ids: np.ndarray, closeness: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids: uint8 [B, side, side] -> things [B, C, S], named [B], background [B, G]."""
    count, most = len(rows), frames.colour.shape[1]
    things = np.zeros((count, len(COLOUR_NAMES), len(SHAPE_NAMES)), np.float32)
    named = np.zeros(count, np.float32)
    for number in range(most):
        share = (ids == 1 + number).mean(axis=(1, 2))
        visible = (frames.ids[rows] == 1 + number).sum(axis=(1, 2))
        whole = share * ids[0].size / np.maximum(visible, 1)
        # In a view, the named object is what the picture is of; the small things are noticed, the background less.
        salience = whole * (1.0 if number == 0 else 0.1)
        weight = (1 - closeness) * share + closeness * salience
        exists = frames.colour[rows, number] >= 0
        np.add.at(things, (np.flatnonzero(exists), frames.colour[rows, number][exists],
                           frames.shape[rows, number][exists]), weight[exists])  # fmt: skip
        if number == 0:
            named = weight.astype(np.float32)
    background = np.zeros((count, len(BACKGROUND_NAMES)), np.float32)
    bare = (ids == 0).mean(axis=(1, 2))
    background[np.arange(count), frames.background[rows]] = (1 - closeness) * bare + closeness * 0.3 * bare
    return torch.from_numpy(things), torch.from_numpy(named), torch.from_numpy(background)
