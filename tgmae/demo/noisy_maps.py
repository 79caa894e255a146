"""Text maps made worse on purpose: guides of one's own (docs/custom_guides.md), to ask how good a map must be.

    tgmae run CONFIG --set guide=tgmae.demo.noisy_maps:Noise2

NoiseN adds Gaussian noise to each score, N times as wide as the scores of its map are spread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.guides import Frames, Scores
from pipeline.guides.guide_identity import guide_identity
from schemas.config import Experiment


class NoisyText:
    """The text guide's maps with noise: a function of the video's frames, not of who computes it."""

    needs_captions = True
    width = 0.0  # standard deviations of a map's scores

    @classmethod
    def identity(cls, experiment: Experiment) -> dict[str, Any]:
        return {"width": cls.width, **guide_identity(experiment.model_copy(update={"guide": "text"}))}

    def __init__(self, experiment: Experiment) -> None:
        from pipeline.guides.encoder import TextEncoder
        from pipeline.guides.text import TextGuide

        self.guide = TextGuide(TextEncoder(experiment.text))

    def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
        seen = hashlib.blake2b(digest_size=16)

        def watched() -> Iterator[Frames]:
            for frames_FHW3 in chunks:
                seen.update(np.ascontiguousarray(frames_FHW3).data)
                yield frames_FHW3

        scores = self.guide.score(watched(), captions)
        assert scores.maps is not None
        rng = np.random.default_rng(int.from_bytes(seen.digest(), "big"))
        noise = rng.standard_normal(scores.maps.shape, np.float32)
        spread = scores.maps.std(axis=(1, 2, 3), keepdims=True)
        return replace(scores, maps=scores.maps + self.width * spread * noise)


class Noise1(NoisyText):
    width = 1.0


class Noise2(NoisyText):
    width = 2.0


class Noise4(NoisyText):
    width = 4.0
