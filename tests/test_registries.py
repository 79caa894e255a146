"""Captioners, guides, masks and list formats are known by name in one place each; the config names all of them."""

from __future__ import annotations

from typing import get_args

import pytest

from pipeline.captioners import SOURCES
from pipeline.datasets import FORMATS
from pipeline.guides.guide_identity import guide_identity
from pipeline.guides.recipes import RECIPES
from pipeline.runtime.model_identity import captioner_identity
from schemas.config import CAPTION_SOURCES, GUIDES, Caption, CaptionFile, Experiment, Index
from schemas.config import Mask as MaskOptions
from train.masking.masks import MASKS

FROM_ROWS = {"oracle", "llm", "file"}  # pipeline/caption_sets.py


@pytest.mark.parametrize(
    ("registry", "named"),
    [
        (set(SOURCES) | FROM_ROWS, set(CAPTION_SOURCES)),
        (set(RECIPES) | {"none"}, set(GUIDES)),
        (set(MASKS), set(get_args(MaskOptions.model_fields["kind"].annotation))),
        (set(FORMATS), set(get_args(Index.model_fields["format"].annotation))),
    ],
)
def test_the_config_names_what_there_is(registry: set[str], named: set[str]) -> None:
    assert registry == named


def test_everything_has_an_identity_of_its_own() -> None:
    """Two names of one identity would be one set of captions, or maps, for the other."""
    file = CaptionFile(path=__file__)
    sets = {source: captioner_identity(source, Caption(file=file)) for source in CAPTION_SOURCES}
    guides = {name: guide_identity(Experiment(workspace="w", guide=name, mask={"kind": "tube"})) for name in RECIPES}  # type: ignore[arg-type]
    for found in (sets, guides):
        assert len({str(identity) for identity in found.values()}) == len(found)
