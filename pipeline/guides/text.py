"""The guides made from captions: text scores each patch against them (section 3.3), embeddings keeps them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.guides import SHARDS, Floats, Frames, Guide, Recipe, Scores, settled_text
from pipeline.guides.cache import MEMBER, CachedFeatures, Codes
from pipeline.guides.frames import scored_frames
from pipeline.guides.guide_identity import cached, features_name
from schemas.config import Experiment, Text
from schemas.workspace import Workspace

ENCODER = ["open_clip_torch", "torch"]  # packages
REMEMBERED = 65_536  # embeddings of distinct captions: 128 MB at width 512


class TextTower(Protocol):
    def text_embeddings(self, texts: list[str]) -> Floats: ...


class Encoder(TextTower, Protocol):
    points: bool  # whether cells overlap

    def score_frames(self, frames_FHW3: Frames, text_CD: Floats) -> Floats: ...


def text_recipe(experiment: Experiment) -> Recipe:
    text = settled_text(experiment)
    if not cached(experiment):
        return Recipe(partial(_make_text, text), text.frame_stride, [*ENCODER, *SHARDS], scored_frames)
    features = Workspace(Path(experiment.workspace)).features(features_name(text)).resolve()
    make, read = partial(_make_cached_text, text), CachedFeatures(features)
    return Recipe(make, text.frame_stride, [*ENCODER, "webdataset"], read, clips=features, member=MEMBER)


def embeddings_recipe(experiment: Experiment) -> Recipe:
    return Recipe(partial(_make_embeddings, settled_text(experiment)), 1, [*ENCODER, "webdataset"], None)


def _make_text(text: Text) -> Guide:
    from pipeline.guides.encoder import TextEncoder  # open_clip takes seconds to import

    return TextGuide(TextEncoder(text))


def _make_cached_text(text: Text) -> Guide:
    from pipeline.guides.encoder import TextEncoder

    return CachedTextGuide(TextEncoder(text))


def _make_embeddings(text: Text) -> Guide:
    from pipeline.guides.encoder import TextEncoder

    return EmbeddingsGuide(TextEncoder(text))


class EmbeddingsGuide:
    """No map: what the contrastive loss needs, next to whatever mask (the paper's table 2)."""

    def __init__(self, encoder: TextTower) -> None:
        self._embedded = _Embedded(encoder)

    def score(self, chunks: Iterable[Any], captions: list[str]) -> Scores:
        """Looks at no chunk. Raises ValueError when there is no caption."""
        return Scores(None, self._embedded(captions))


class TextGuide:
    """The cosine of each patch's embedding with a caption's, a map a caption."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self._embedded = encoder, _Embedded(encoder)

    def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
        """Raises ValueError when the video has no frame, or no caption."""
        return _scored(self._encoder.score_frames, chunks, self._embedded(captions), self._encoder.points)


class CachedTextGuide:
    """TextGuide, with the patches' embeddings out of the cache: the encoder embeds captions only."""

    def __init__(self, encoder: Encoder) -> None:
        self._embedded, self._points = _Embedded(encoder), encoder.points

    def score(self, chunks: Iterable[Codes], captions: list[str]) -> Scores:
        """Raises ValueError when the video has no frame, or no caption."""
        return _scored(Codes.scores, chunks, self._embedded(captions), self._points)


def _scored(maps: Callable[[Any, Floats], Floats], chunks: Iterable[Any], text_CD: Floats, points: bool) -> Scores:
    parts = [maps(chunk, text_CD) for chunk in chunks]
    if not parts:
        raise ValueError("no frame to score")
    return Scores(np.concatenate(parts, axis=1), text_CD, points)


class _Embedded:
    """float32 [C, D] of captions. Each is embedded alone: how it is batched would show in its last bits."""

    def __init__(self, encoder: TextTower) -> None:
        self._encoder = encoder
        self._known: dict[str, Floats] = {}  # caption -> [D]

    def __call__(self, captions: list[str]) -> Floats:
        if not captions:
            raise ValueError("no caption to embed")
        for text in captions:
            if not text.strip():
                raise ValueError("a caption is empty: there is nothing to embed")
            if text not in self._known:
                if len(self._known) == REMEMBERED:
                    self._known.clear()
                self._known[text] = self._encoder.text_embeddings([text])[0]
        return np.stack([self._known[text] for text in captions])
