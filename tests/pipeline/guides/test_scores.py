"""Guides without Ray: Pillow's resizing, the paper's embedding of patches, and open_clip's real classes, small."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import VisionTransformer, register_model

from pipeline.guides.encoder import TextEncoder
from pipeline.guides.grid import grid
from pipeline.guides.recipes import recipe
from pipeline.guides.resize import resize
from pipeline.guides.text import TextGuide
from pipeline.runtime.model_identity import encoder_identity
from schemas.config import Experiment, Text
from schemas.errors import UserError

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 48, "patch_size": 16, "width": 64, "head_width": 32, "layers": 2}
TIMM = {"timm_model_name": "small_siglip", "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none",
        "image_size": 48}  # fmt: skip
TEXTS = ["a red star", "a dog is running"]
MODELS: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "siglip": {"embed_dim": 64, "init_logit_bias": -10, "custom_text": True, "vision_cfg": TIMM, "text_cfg": TEXT},
}


@register_model
def small_siglip(**options: Any) -> VisionTransformer:
    """As timm's vit_*_siglip: no class token, one size."""
    known = {name: options[name] for name in ("num_classes", "global_pool")}
    return VisionTransformer(img_size=48, patch_size=16, embed_dim=64, depth=2, num_heads=2, class_token=False, **known)


def save_encoder(folder: Path, kind: str = "clip", seed: int = 0, **preprocess: Any) -> str:
    """An open_clip model of two layers a tower as a local-dir: model; returns its name."""
    config = MODELS[kind]
    torch.manual_seed(seed)
    with_timm = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    with_timm.pop("custom_text", None)
    model = (open_clip.CustomTextCLIP if kind == "siglip" else open_clip.CLIP)(**with_timm)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_encoder(tmp_path_factory.mktemp("clip"))


class Plain(NamedTuple):
    """open_clip's own of one kind of model: the plainest form of the paper's procedure, to compare ours with."""

    name: str
    model: Any
    preprocess: Any
    text_CD: torch.Tensor


@pytest.fixture(scope="module", params=["clip", "siglip"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    mean, std = [0.5, 0.4, 0.3], [0.3, 0.2, 0.25]
    folder = tmp_path_factory.mktemp("plain")
    name = save_encoder(folder, request.param, mean=mean, std=std, interpolation="bicubic", resize_mode="squash")
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    with torch.inference_mode():
        text_CD = model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)
    return Plain(name, model, preprocess, text_CD)


def encoder(model: str, **options: Any) -> TextEncoder:
    return TextEncoder(Text(model=model, device="cpu", **{"patch": 16, "batch_size": 10, **options}))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Smooth and rough areas, and hard edges, where filters overshoot."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    blocks = np.kron(rng.integers(0, 2, (height // 8 + 1, width // 8 + 1, 3)) * 255, np.ones((8, 8, 1)))
    return np.where(np.arange(width)[None, :, None] < width // 2, rough, blocks[:height, :width]).astype(np.uint8)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", [(224, 224), (48, 32), (37, 53), (200, 40)])
def test_resize_is_pillows(mode: str, target: tuple[int, int]) -> None:
    """Pillow computes in fixed point: here and there a level differs in a pass, so two at most after both."""
    pixels = picture(48, 64)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    expected = np.asarray(Image.fromarray(pixels).resize(target[::-1], filters[mode])).astype(np.int64)
    found = resize(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), *target, mode)[0].permute(1, 2, 0)
    difference = np.abs(found.numpy() - expected)
    assert difference.max() <= 2 and (difference > 0).mean() < 0.04


def test_resize_leaves_its_input_alone() -> None:
    images = torch.rand(2, 3, 8, 8) * 255
    before = images.clone()
    resize(images, 16, 8)
    resize(images, 8, 16)
    assert torch.equal(images, before)


def test_grid() -> None:
    assert grid(256, 340, 16) == (16, 21)
    assert grid(120, 8, 16) == (8, 1)
    assert grid(3, 3, 16) == (1, 1)


@pytest.mark.parametrize("size", [(48, 64), (50, 71), (7, 90)])
@pytest.mark.parametrize("pitch", [16, 8, 5])
def test_scores_agree_with_one_crop_at_a_time(plain: Plain, size: tuple[int, int], pitch: int) -> None:
    """The paper's procedure in its plainest form: Pillow and open_clip's own preprocessing, a crop at a time.

    At a pitch below the patch crops overlap: each lies about the centre of its cell, within the frame.
    """
    frames_FHW3 = np.stack([picture(*size, seed=n) for n in range(2)])
    subject = encoder(plain.name, grid_stride=pitch)
    scores = subject.score_frames(frames_FHW3, subject.text_embeddings(TEXTS))
    gh, gw = grid(*size, pitch)
    height, width = max(gh * pitch, 16), max(gw * pitch, 16)
    assert scores.shape == (2, 2, gh, gw) and scores.dtype == np.float32
    with torch.inference_mode():
        for f, frame in enumerate(frames_FHW3):
            whole = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
            for y in range(gh):
                for x in range(gw):
                    left, top = (min(max(n * pitch - (16 - pitch) // 2, 0), side - 16)
                                 for n, side in ((x, width), (y, height)))  # fmt: skip
                    crop = whole.crop((left, top, left + 16, top + 16))
                    image_1D = plain.model.encode_image(plain.preprocess(crop)[None], normalize=True)
                    expected = (image_1D @ plain.text_CD.T)[0].numpy()
                    # One level of 255 in some pixels, as above; nothing else differs.
                    np.testing.assert_allclose(scores[:, f, y, x], expected, atol=5e-3)


def test_a_crop_of_the_encoders_size_is_embedded_as_it_is(clip: str) -> None:
    subject, pixels = encoder(clip, patch=48), picture(48, 48)
    inputs = subject._inputs
    image_3SS = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - inputs.mean_311) / inputs.std_311
    with torch.inference_mode():
        image_1D = F.normalize(subject._model.encode_image(image_3SS[None]), dim=-1)
    text_CD = subject.text_embeddings(["a red star"])
    score = subject.score_frames(pixels[None], text_CD)
    np.testing.assert_allclose(score.ravel(), text_CD @ image_1D[0].numpy(), atol=1e-6)


def test_scores_do_not_depend_on_chunks_and_batches(clip: str) -> None:
    frames = np.stack([picture(48, 64, seed=n) for n in range(4)])
    texts = ["a red star", "a blue ring", "a red star"]
    guide = TextGuide(encoder(clip))
    whole = guide.score([frames], texts)
    parts = TextGuide(encoder(clip, batch_size=7)).score(iter([frames[:1], frames[1:]]), texts)
    np.testing.assert_allclose(parts.maps, whole.maps, atol=1e-6)
    assert np.array_equal(whole.maps[0], whole.maps[2])
    assert whole.text.shape == (3, 24) and np.allclose(np.linalg.norm(whole.text, axis=1), 1)
    again = guide.score([frames], texts)
    assert np.array_equal(again.maps, whole.maps) and np.array_equal(again.text, whole.text)


def test_no_frame_and_no_caption_are_said(clip: str) -> None:
    guide = TextGuide(encoder(clip))
    with pytest.raises(ValueError, match="no frame"):
        guide.score([], ["a red star"])
    with pytest.raises(ValueError, match="no caption"):
        guide.score([np.zeros((1, 16, 16, 3), np.uint8)], [])
    with pytest.raises(ValueError, match="a caption is empty"):
        guide.score([np.zeros((1, 16, 16, 3), np.uint8)], ["a red star", " "])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_smaller_crops_are_those_of_open_clips_own_smaller_model(tmp_path: Path, kind: str) -> None:
    name, frames = save_encoder(tmp_path, kind), picture(32, 48)[None]
    found = encoder(name, crop_size=32).features(frames)
    assert found.shape == (1, 2, 3, 24 if kind == "clip" else 64)
    model, _, preprocess = open_clip.create_model_and_transforms(name, force_image_size=32)
    with torch.inference_mode():
        for y, x in np.ndindex(2, 3):
            crop = Image.fromarray(frames[0, y * 16 : y * 16 + 16, x * 16 : x * 16 + 16])
            expected = model.eval().encode_image(preprocess(crop)[None], normalize=True)[0]
            np.testing.assert_allclose(found[0, y, x], expected.numpy(), atol=5e-3)


@pytest.mark.slow
def test_compiled_the_scores_are_the_same(clip: str) -> None:
    frames = np.stack([picture(48, 64, seed=n) for n in range(2)])
    plain, compiled = encoder(clip, batch_size=16), encoder(clip, batch_size=16, compile=True)
    text_CD = plain.text_embeddings(["a red star"])
    expected = plain.score_frames(frames, text_CD)
    np.testing.assert_allclose(compiled.score_frames(frames, text_CD), expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_half_precision_is_near(tmp_path: Path, kind: str, precision: str) -> None:
    name, frames, texts = save_encoder(tmp_path, kind), picture(32, 48)[None], ["a red star"]
    full, half = encoder(name), encoder(name, precision=precision)
    expected = full.score_frames(frames, full.text_embeddings(texts))
    found = half.score_frames(frames, half.text_embeddings(texts))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_long_captions_are_cut_and_counted(clip: str, caplog: pytest.LogCaptureFixture) -> None:
    subject = encoder(clip)
    with caplog.at_level(logging.WARNING):
        subject.text_embeddings(["word " * 14])
        assert not caplog.text
        subject.text_embeddings(["word " * 15, "short", "word " * 99])
    assert "2 of 3 captions are longer" in caplog.text


def test_out_of_memory_halves_the_crops(clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, frames = encoder(clip, batch_size=64), picture(48, 64)[None]
    text_CD = subject.text_embeddings(["a red star"])
    expected, sizes = subject.score_frames(frames, text_CD), list[int]()
    monkeypatch.setattr(subject._model, "encode_image", short_of_memory(subject._model.encode_image, 5, sizes))
    np.testing.assert_allclose(subject.score_frames(frames, text_CD), expected, atol=1e-6)
    assert sizes == [12, 6, 3, 3, 3, 3]


def short_of_memory(encode: Callable[..., Any], room: int, sizes: list[int]) -> Callable[..., Any]:
    def limited(images: Any) -> Any:
        sizes.append(len(images))
        if sizes[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(images)

    return limited


def test_architecture_with_a_weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "configs" / "Tiny-Test.json"
    config.parent.mkdir()
    config.write_text(json.dumps(MODELS["clip"]))
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", {"Tiny-Test": MODELS["clip"]})
    save_encoder(tmp_path / "model")
    weights = str(tmp_path / "model" / "open_clip_model.safetensors")
    assert encoder("Tiny-Test", pretrained=weights).text_embeddings(["a red star"]).shape == (1, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-B-32", "pretrained": "openai"}, "'ViT-B-32-quickgelu'"),
        ({"model": "ViT-B-32-quickgelu", "pretrained": "laion2b_s34b_b79k"}, "text.model"),
        ({"model": "ViT-B-32", "pretrained": "no-such-tag"}, "no-such-tag"),
        ({"model": "ViT-B-32", "pretrained": ""}, "random weights"),
        ({"model": "No-Such-ViT", "pretrained": "openai"}, "No-Such-ViT"),
        ({"model": "local-dir:/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_never_random_weights(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextEncoder(Text(device="cpu", **options))


@pytest.mark.parametrize("problem", ["absent", "truncated", "other"])
def test_broken_model_folders(tmp_path: Path, problem: str) -> None:
    name = save_encoder(tmp_path)
    weights = tmp_path / "open_clip_model.safetensors"
    if problem == "absent":
        weights.unlink()
    elif problem == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        save_file({"a": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match=r"cannot load text\.model"):
        encoder(name)


def test_a_retrained_encoder_is_another_encoder(tmp_path: Path) -> None:
    """Known by its content: under the same name other weights are another model, at another place the same."""
    options = Text(model=save_encoder(tmp_path / "a" / "model"))
    before = encoder_identity(options)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert encoder_identity(Text(model=f"local-dir:{tmp_path / 'b' / 'model'}")) == before
    save_encoder(tmp_path / "a" / "model", seed=1)
    assert encoder_identity(options) != before


def test_nan_weights_give_nan_scores_not_zeros(tmp_path: Path) -> None:
    name, weights = save_encoder(tmp_path), tmp_path / "open_clip_model.safetensors"
    tensors = load_file(weights)
    tensors["visual.proj"][:] = torch.nan
    save_file(tensors, weights)
    subject = encoder(name)
    scores = subject.score_frames(picture(16, 16)[None], subject.text_embeddings(["a red star"]))
    assert np.isnan(scores).all()  # schemas.shards.quantize refuses them


def test_the_recipe_of_the_text_guide(clip: str) -> None:
    experiment = Experiment(workspace="w", text=Text(model=clip, device="cpu", frame_stride=3))
    found = recipe(experiment)
    assert isinstance(found.make(), TextGuide)
    assert found.frame_stride == 3 and found.tools == ["open_clip_torch", "torch", "av", "webdataset"]
    with pytest.raises(UserError, match="unknown guide 'none'"):
        recipe(experiment.model_copy(update={"guide": "none"}))
