"""Captioners, guides, masks and list formats are one pattern: a file and a line in schemas/registry.py."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.captioners import RowSource
from pipeline.guides import Recipe
from pipeline.guides.guide_identity import guide_identity
from pipeline.guides.recipes import recipe
from pipeline.runtime.model_identity import captioner_identity
from schemas.config import CAPTION_SOURCES, Caption, CaptionFile, Experiment
from schemas.errors import UserError
from schemas.registry import FORMATS, FRAME_CAPTIONERS, GUIDES, MASKS, ROW_CAPTIONERS, Registry
from schemas.toml import load_experiment
from train.masking.masks import make_mask

KEYS = {  # registry -> the key of the config that names one, and what is set along with it
    "captions": (FRAME_CAPTIONERS, ()), "guide": (GUIDES, ("mask.kind=tube",)), "index.format": (FORMATS, ()),
    "mask.kind": (MASKS, ("mask.any_guide=true",)),
}  # fmt: skip
PLACES = [(registry, name) for registry in (FRAME_CAPTIONERS, ROW_CAPTIONERS, GUIDES, MASKS, FORMATS)
          for name in registry]  # fmt: skip


@pytest.mark.parametrize(("registry", "name"), PLACES, ids=[name for _, name in PLACES])
def test_every_line_leads_to_what_it_names(registry: Registry, name: str) -> None:
    if name == "lavis":  # imported in an environment of its own
        pytest.importorskip("lavis")
    assert callable(registry[name]) or registry is MASKS


@pytest.mark.parametrize(("key", "named"), KEYS.items(), ids=KEYS)
def test_a_name_that_there_is_not_is_answered_with_the_nearest(key: str, named: tuple[Registry, Any]) -> None:
    registry, more = named
    for name in registry:
        guide = ("guide=optical-flow",) if name == "optical-flow" else ()
        load_experiment(None, ["workspace=w", *more, *guide, f"{key}={name}"])
        with pytest.raises(UserError, match=f"Did you mean '{re.escape(name)}'\\?"):
            load_experiment(None, ["workspace=w", *more, f"{key}={name}x"])
        with pytest.raises(UserError, match=f"Did you mean '{re.escape(name)}'\\?"):
            registry[name + "x"]


def test_everything_has_an_identity_of_its_own() -> None:
    """Two names of one identity would be one set of captions, or maps, for the other."""
    file = CaptionFile(path=__file__)
    sets = {source: captioner_identity(source, Caption(file=file)) for source in CAPTION_SOURCES}
    guides = {name: guide_identity(Experiment(workspace="w", guide=name, mask={"kind": "tube"})) for name in GUIDES}  # type: ignore[arg-type]
    for found in (sets, guides):
        assert len({str(identity) for identity in found.values()}) == len(found)


def test_a_file_and_a_line_are_all_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more of each kind, by a line that the test adds; what knows names from elsewhere would not know it."""
    (tmp_path / "one_file.py").write_text(
        "import numpy as np\n"
        "from pipeline.captioners import RowSource\n"
        "from pipeline.datasets import Listing\n"
        "from pipeline.guides import Recipe\n"
        "from train.masking.masks import Mask\n"
        "def source(experiment, manifest): return RowSource(None)\n"
        "def guide(experiment): return Recipe(lambda: None, 4, [], None)\n"
        "def listing(source): return Listing([])\n"
        "def upper(shape, k, rng):\n"
        "    hidden = np.zeros((shape[0], shape[1] * shape[2]), bool); hidden[:, :k] = True\n"
        "    return hidden.reshape(shape)\n"
        "UPPER = Mask(upper, 'shape')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    for registry, attribute in ((ROW_CAPTIONERS, "source"), (GUIDES, "guide"), (FORMATS, "listing"), (MASKS, "UPPER")):
        monkeypatch.setitem(registry._places, "one-more", f"one_file:{attribute}")
    monkeypatch.setattr("schemas.config.experiment.CAPTION_SOURCES", (*CAPTION_SOURCES, "one-more"))
    monkeypatch.setattr("pipeline.runtime.model_identity.CAPTION_SOURCES", (*CAPTION_SOURCES, "one-more"))
    monkeypatch.setattr("schemas.config.experiment.GUIDES", (*GUIDES, "none"))
    experiment = load_experiment(None, [
        "workspace=w", "captions=one-more", "guide=one-more", "index.format=one-more", "mask.kind=one-more",
    ])  # fmt: skip
    assert isinstance(ROW_CAPTIONERS["one-more"](experiment, []), RowSource)
    assert captioner_identity("one-more", experiment.caption) == {}
    assert isinstance(recipe(experiment), Recipe) and guide_identity(experiment) == {"guide": "one-more"}
    assert FORMATS["one-more"](SimpleNamespace()).entries == []
    rng: Any = __import__("numpy").random.default_rng(0)
    assert make_mask("one-more", ratio=0.5, shape=(2, 2, 2), rng=rng).tolist() == [[[True, True], [False, False]]] * 2
