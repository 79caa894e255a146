"""The dense text guide: open_clip's own towers, and the literature's formulas written out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.guides.dense import ClipTower, changed, resample, tokens
from pipeline.guides.grid import grid
from schemas.config import Text
from schemas.errors import UserError
from tests.pipeline.guides.test_scores import MODELS, TEXT, encoder, picture, save_encoder


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_encoder(tmp_path_factory.mktemp("clip"))


def tower(name: str, **options: Any) -> ClipTower:
    model = open_clip.create_model(name, **({"force_image_size": options.pop("size")} if "size" in options else {}))
    return ClipTower(model.eval().visual, Text(model=name, method="dense", **options))


@pytest.mark.parametrize("size", [48, 96])
def test_unchanged_it_is_open_clips_tower(clip: str, size: int) -> None:
    """Also at another size: positions are interpolated as open_clip does when it loads a model for that size."""
    images = torch.randn(2, 3, size, size)
    model = open_clip.create_model(clip, force_image_size=size).eval()
    model.visual.output_tokens = True
    image_FD, tokens_FLW = model.visual(images)
    subject = tower(clip, attention="original")
    found_FLD = subject.tokens(images)
    torch.testing.assert_close(found_FLD[:, 0], image_FD, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found_FLD[:, 1:], tokens_FLW @ model.visual.proj, atol=1e-5, rtol=1e-5)
    side = size // 16
    assert subject(images).shape == (2, side, side, 24)
    torch.testing.assert_close(subject(images)[0, 1, 0], found_FLD[0, 1 + side])


def test_value_is_each_token_alone(clip: str) -> None:
    """MaskCLIP: what the block makes of a sequence of one token, in which there is nobody else to look at."""
    block = open_clip.create_model(clip).eval().visual.transformer.resblocks[-1]
    x_FLW = torch.randn(2, 7, 64)
    alone_FLW = torch.cat([block(x_FLW[:, [n]]) for n in range(7)], dim=1)
    torch.testing.assert_close(changed(block, x_FLW, "value", False), alone_FLW, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["original", "query-query", "query-query+key-key"])
@pytest.mark.parametrize("bare", [False, True])
def test_attention_as_the_papers_write_it(clip: str, attention: str, bare: bool) -> None:
    """CLIP: softmax(q k). SCLIP: softmax(q q) + softmax(k k), both with CLIP's scale. ClearCLIP: softmax(q q), and
    neither residual nor feed-forward."""
    block = open_clip.create_model(clip).eval().visual.transformer.resblocks[-1]
    x_LW = torch.randn(7, 64)
    attn, heads = block.attn, block.attn.num_heads
    parts = zip(attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3), strict=True)
    q, k, v = (F.linear(block.ln_1(x_LW), weight, bias) for weight, bias in parts)
    out = []
    for head in range(heads):
        part = slice(head * 64 // heads, (head + 1) * 64 // heads)
        qh, kh, vh = (each[:, part].numpy().astype(np.float64) for each in (q, k, v))

        def look(a: Any, b: Any) -> Any:
            logits = np.exp(a @ b.T / np.sqrt(a.shape[1]))
            return logits / logits.sum(1, keepdims=True)

        weights = {"original": look(qh, kh), "query-query": look(qh, qh),
                   "query-query+key-key": look(qh, qh) + look(kh, kh)}[attention]  # fmt: skip
        out.append(weights @ vh)
    attended = F.linear(torch.from_numpy(np.concatenate(out, 1)).float(), attn.out_proj.weight, attn.out_proj.bias)
    expected = attended
    if not bare:
        x = x_LW + attended
        expected = x + block.mlp(block.ln_2(x))
    torch.testing.assert_close(changed(block, x_LW[None], attention, bare)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("size", [(48, 64), (50, 71)])
@pytest.mark.parametrize("options", [{}, {"grid_stride": 8}, {"resolution": 96}, {"precision": "bfloat16"}])
def test_scores_of_any_frame(tmp_path: Path, kind: str, size: tuple[int, int], options: dict[str, Any]) -> None:
    subject = encoder(save_encoder(tmp_path, kind), method="dense", **options)
    frames = np.stack([picture(*size, seed=n) for n in range(3)])
    text_CD = subject.text_embeddings(["a red star", "a blue ring"])
    scores = subject.score_frames(frames, text_CD)
    assert scores.shape == (2, 3, *grid(*size, options.get("grid_stride", 16))) and np.abs(scores).max() <= 1.001
    one = np.concatenate([subject.score_frames(frames[[n]], text_CD) for n in range(3)], axis=1)
    np.testing.assert_allclose(scores, one, atol=2e-2 if options.get("precision") else 1e-5)
    features = subject.features(frames)
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(np.einsum("fhwd,cd->cfhw", features, text_CD), scores, atol=1e-5)


def test_siglips_tokens_are_pooled_alone(tmp_path: Path) -> None:
    """At its own size, without resampling: the pool, given one token."""
    name = save_encoder(tmp_path, "siglip", mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic")
    frames = picture(48, 48)[None]
    found = encoder(name, method="dense").features(frames)[0]
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    trunk = model.eval().visual.trunk
    tokens_1LW = trunk.forward_features(preprocess(Image.fromarray(frames[0]))[None])
    side = round(tokens_1LW.shape[1] ** 0.5)
    assert tokens(48, 48, side=16, options=Text(method="dense", patch=16)) == (side, side) == found.shape[:2]
    for n in range(side**2):
        alone_D = F.normalize(model.visual.head(trunk.forward_head(tokens_1LW[:, [n]]))[0], dim=-1)
        np.testing.assert_allclose(found[n // side, n % side], alone_D.numpy(), atol=1e-4)


def test_tokens_are_averaged_to_the_grid() -> None:
    tokens_FhwD = torch.randn(1, 6, 4, 3)
    torch.testing.assert_close(resample(tokens_FhwD, 6, 4), tokens_FhwD)
    constant = torch.ones(1, 5, 7, 2)
    torch.testing.assert_close(resample(constant, 3, 9), torch.ones(1, 3, 9, 2))


def test_how_many_tokens() -> None:
    assert tokens(256, 340, 14, Text(method="dense", patch=16)) == (16, 21)  # one a patch
    assert tokens(256, 340, 14, Text(method="dense", patch=16, resolution=448)) == (32, 43)


def test_out_of_memory_halves_the_frames(clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, frames = encoder(clip, method="dense", batch_size=64), np.stack([picture(48, 64, n) for n in range(5)])
    expected, sizes = subject.features(frames), list[int]()
    whole = subject.cells._tower

    def limited(images: Any) -> Any:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(images)

    monkeypatch.setattr(subject.cells, "_tower", limited)
    monkeypatch.setattr(limited, "patch", whole.patch, raising=False)
    np.testing.assert_allclose(subject.features(frames), expected, atol=1e-6)
    assert sizes == [5, 3, 2, 2, 1]


@pytest.mark.parametrize(
    ("vision", "options", "message"),
    [
        ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}, {}, "no vision transformer but a ModifiedResNet"),
        ({**MODELS["clip"]["vision_cfg"], "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
         {}, "pools its tokens by attention"),
        (MODELS["siglip"]["vision_cfg"], {"attention": "query-query"}, "the only way is text.attention = 'value'"),
    ],
)  # fmt: skip
def test_towers_without_embeddings_of_tokens(
    tmp_path: Path, vision: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    from safetensors.torch import save_file

    config = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": TEXT}
    weights = {name: value.contiguous() for name, value in open_clip.CLIP(**config).state_dict().items()}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(UserError, match=message):
        encoder(f"local-dir:{tmp_path}", method="dense", **options)
