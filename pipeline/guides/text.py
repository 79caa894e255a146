"""The text guide: the cosine of each patch's embedding with a caption's, a map a caption (section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from pipeline.guides import Floats, Frames, Scores

REMEMBERED = 65_536  # embeddings of distinct captions: 128 MB at width 512


class Encoder(Protocol):
    def text_embeddings(self, texts: list[str]) -> Floats: ...

    def score_frames(self, frames_FHW3: Frames, text_CD: Floats) -> Floats: ...


class TextGuide:
    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._embeddings: dict[str, Floats] = {}  # caption -> [D]

    def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
        """Raises ValueError when the video has no frame, or no caption."""
        text_CD = self._text(captions)
        maps = [self._encoder.score_frames(frames_FHW3, text_CD) for frames_FHW3 in chunks]
        if not maps:
            raise ValueError("no frame to score")
        return Scores(np.concatenate(maps, axis=1), text_CD)

    def _text(self, captions: list[str]) -> Floats:
        """float32 [C, D]. Each text is embedded alone: how it is batched would show in its last bits."""
        if not captions:
            raise ValueError("no caption to score against")
        for text in captions:
            if text not in self._embeddings:
                if len(self._embeddings) == REMEMBERED:
                    self._embeddings.clear()
                self._embeddings[text] = self._encoder.text_embeddings([text])[0]
        return np.stack([self._embeddings[text] for text in captions])
