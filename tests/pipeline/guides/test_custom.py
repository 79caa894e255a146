"""A class of one's own as a guide: the examples of docs/custom_guides.md as they stand there, and what may be wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from pipeline.guides import Frames, Scores, checked
from pipeline.guides.custom import make, own
from pipeline.guides.guide_identity import guide_identity, needs_captions
from pipeline.guides.recipes import recipe
from schemas.config import Experiment, Text
from schemas.errors import UserError
from tests.own_modules import working_in

PAGE = Path(__file__).resolve().parents[3] / "docs" / "custom_guides.md"
SIMPLE = """
class Guide:
    def __init__(self, experiment): ...
    def score(self, chunks, captions): ...
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    with working_in(tmp_path):
        yield tmp_path


def write_examples(folder: Path) -> None:
    """The modules of the page, by the name in their first line."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in blocks] == ["centre_prior.py", "dino_attention.py"]
    for name, code in blocks:
        (folder / name).write_text(code, encoding="utf-8")


def experiment(guide: str, **text: Any) -> Experiment:
    return Experiment(workspace="w", captions="oracle", guide=guide, text=Text(**text))


def chunks() -> list[Frames]:
    return list(np.random.default_rng(0).integers(0, 256, (2, 3, 48, 80, 3), dtype=np.uint8))


def test_the_centre_prior_of_the_page(folder: Path) -> None:
    write_examples(folder)
    chosen = experiment("centre_prior:CentrePrior", frame_stride=2)
    assert not needs_captions(chosen.guide)
    found = recipe(chosen)
    assert found.frame_stride == 2 and found.tools == ["av", "webdataset"]
    (maps_FHW,) = checked(found.make().score(chunks(), []), [], 6).maps
    assert maps_FHW.shape == (6, 3, 5) and maps_FHW.dtype == np.float32
    assert (maps_FHW.reshape(6, -1).argmax(1) == 7).all()
    assert maps_FHW[0, 0, 0] == maps_FHW.min()


def test_the_dino_of_the_page(folder: Path) -> None:
    """A small ViT of timm's in its place; against the attention worked out by hand from the last block's input."""
    write_examples(folder)
    torch.manual_seed(0)
    weights = folder / "vit.pth"
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), weights)
    code = (folder / "dino_attention.py").read_text(encoding="utf-8")
    code = code.replace('"vit_small_patch16_224.dino"', '"test_vit"').replace('WEIGHTS = ""', f'WEIGHTS = "{weights}"')
    (folder / "dino_attention.py").write_text(code, encoding="utf-8")
    chosen = experiment("dino_attention:DinoAttention")
    assert recipe(chosen).tools == ["timm", "torch", "av", "webdataset"]
    subject: Any = recipe(chosen).make()
    seen: list[torch.Tensor] = []
    subject.model.blocks[-1].attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    (maps_FHW,) = checked(subject.score(chunks(), []), [], 6).maps
    assert maps_FHW.shape == (6, 3, 5)
    qkv = torch.cat(seen).reshape(6, 16, 3, -1, subject.model.blocks[-1].attn.head_dim)
    query_FND, key_FLND = qkv[:, 0, 0], qkv[:, :, 1]
    logits = torch.einsum("fnd,flnd->fnl", query_FND, key_FLND) / query_FND.shape[-1] ** 0.5
    expected = logits.softmax(-1).mean(1)[:, 1:].reshape(6, 3, 5)
    np.testing.assert_allclose(maps_FHW, expected.numpy(), rtol=1e-4)
    before = guide_identity(chosen)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), weights)
    assert guide_identity(chosen) != before


def test_the_source_is_a_part_of_the_identity(folder: Path) -> None:
    path = folder / "mine.py"
    path.write_text(SIMPLE)
    chosen = experiment("mine:Guide")
    before = guide_identity(chosen)
    assert before["guide"] == "mine:Guide" and len(before["source"]) == 64
    assert guide_identity(experiment("mine:Guide", frame_stride=9)) != before
    assert guide_identity(experiment("mine:Guide", batch_size=9)) == before
    path.write_text(SIMPLE + "# changed")
    assert guide_identity(chosen) != before


def test_a_worker_elsewhere_needs_the_same_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "mine.py").write_text(SIMPLE)
    name = "package.mine:Guide"
    known = own(name).source()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(folder)])
    assert type(make(name, known, experiment(name))).__name__ == "Guide"
    known.path.write_text(SIMPLE + "# changed since")
    with pytest.raises(UserError, match="differs from"):
        make(name, known, experiment(name))


@pytest.mark.parametrize(
    ("guide", "code", "message"),
    [
        ("mine:", "", "not module:ClassName"),
        (":Guide", "", "not module:ClassName"),
        ("my-guide:Guide", "", "not module:ClassName"),
        ("absent:Guide", "", "there is no module absent"),
        ("absent.mine:Guide", "", "ModuleNotFoundError"),
        ("sys:Guide", "", "there is no module sys"),
        ("mine:Guide", "class Other: ...", "mine has no class Guide"),
        ("mine:Guide", "Guide = 3", "mine has no class Guide"),
        ("mine:Guid", "class Guide: ...", "Did you mean 'Guide'"),
        ("mines:Guide", "class Guide: ...", "Did you mean 'mine'"),
        ("mine:Guide", "class Guide: ...", "Guide has no method score"),
        ("mine:Guide", "class Guide: score = 3", "Guide has no method score"),
        ("mine:Guide", "class Guide(:", "cannot be imported: SyntaxError"),
        ("mine:Guide", "import not_installed", "cannot be imported: ModuleNotFoundError"),
        ("mine:Guide", "1 / 0", "cannot be imported: ZeroDivisionError"),
        ("mine:Guide", SIMPLE + "    needs_captions = 'yes'", "needs_captions is 'yes'"),
        ("mine:Guide", SIMPLE + "    identity = lambda experiment: {object()}", r"identity\(experiment\) failed"),
    ],
)
def test_what_may_be_wrong_with_a_class(folder: Path, guide: str, code: str, message: str) -> None:
    (folder / "mine.py").write_text(code)
    with pytest.raises(UserError, match=message):
        guide_identity(experiment(guide))
    if "identity" not in code:  # which comes later
        with pytest.raises(UserError, match=message):
            needs_captions(guide)


@pytest.mark.parametrize("body", ["def __init__(self): ...", "def __init__(self, experiment): 1 / 0"])
def test_a_class_that_cannot_be_made(folder: Path, body: str) -> None:
    (folder / "mine.py").write_text(f"class Guide:\n    {body}\n    def score(self, chunks, captions): ...")
    with pytest.raises(UserError, match=r"Guide\(experiment\) failed: (TypeError|ZeroDivisionError)"):
        recipe(experiment("mine:Guide")).make()


def maps(*shape: int, dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("found", "captions", "message"),
    [
        (maps(1, 6, 2, 2), [], "returned ndarray, not pipeline.guides.Scores"),
        (None, [], "returned NoneType"),
        (Scores(None), [], "neither maps nor text"),
        (Scores(maps(1, 5, 2, 2)), [], r"maps of shape \[1, 5, 2, 2\], expected .* = \[any, 6, any, any\]"),
        (Scores(maps(6, 2, 2)), [], r"maps of shape \[6, 2, 2\]"),
        (Scores(maps(1, 6, 2, 0)), [], r"maps of shape \[1, 6, 2, 0\]"),
        (Scores(maps(1, 6, 2, 2)), ["a", "b"], r"expected .* = \[2, 6, any, any\]"),
        (Scores(maps(1, 6, 2, 2, dtype=np.int64)), [], "maps of int64, not floats"),
        (Scores([[[[1.0]]]]), [], "maps of list, not floats"),  # type: ignore[arg-type]
        (Scores(maps(1, 6, 2, 2), maps(3, 8)), ["a"], r"text of shape \[3, 8\], expected .* = \[1, any\]"),
        (Scores(maps(1, 6, 2, 2), maps(1, 8)), [], r"text of shape \[1, 8\]"),
    ],
)
def test_results_that_do_not_fit(found: Any, captions: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(found, captions, 6)


def test_results_that_fit() -> None:
    wide = checked(Scores(maps(3, 6, 2, 5, dtype=np.float64)), [], 6)
    assert wide.maps is not None and wide.maps.dtype == np.float32
    assert checked(Scores(None, maps(2, 8)), ["a", "b"], 6).maps is None
    with pytest.raises(ValueError, match="NaN"):
        checked(Scores(None, np.full((1, 8), np.nan, np.float32)), ["a"], 6)
