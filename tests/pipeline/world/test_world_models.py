"""The shipped models: they load as anyone's would, from wherever they lie, and find and say what they are said to."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from pipeline.world import MODELS
from pipeline.world.dataset import HELD_OUT_SEED, draw_frames
from pipeline.world.evaluate import caption_frames, measure_blip2, measure_clip


@pytest.fixture(scope="module")
def frames():
    return draw_frames(HELD_OUT_SEED, 48, per_video=1)


@pytest.mark.medium
def test_the_dual_encoder_finds_what_the_caption_names(frames):
    found = measure_clip(MODELS / "clip", frames)
    assert found["iou_8px"] >= 0.6
    assert found["iou_16px"] >= 0.6
    assert found["iou_8px_sentence"] >= 0.6
    assert found["iou_8px_random"] < 0.2


@pytest.mark.medium
def test_the_captioner_names_what_is_there(frames):
    found = measure_blip2(MODELS / "blip2", frames)
    assert found["caption_colour"] >= 0.9
    assert found["caption_shape"] >= 0.7


@pytest.mark.medium
def test_captions_go_on_from_a_prompt(frames):
    few = frames.pixels[::4]
    assert caption_frames(MODELS / "blip2", few, prompt="a photo of") == caption_frames(MODELS / "blip2", few)


def test_the_dual_encoder_loads_from_any_folder(tmp_path, monkeypatch):
    shutil.copytree(MODELS / "clip", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    name = "local-dir:elsewhere"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    assert isinstance(model, open_clip.CLIP)
    tokens = tokenizer(["a red star", "A Red Star", "a zebra"])
    assert tokens.dtype == torch.int64 and tokens.shape == (3, model.context_length)
    assert torch.equal(tokens[0], tokens[1])
    from PIL import Image

    image = preprocess(Image.fromarray(np.full((8, 8, 3), 100, np.uint8)))
    assert image.shape == (3, 32, 32)
    with torch.inference_mode():
        assert model.eval().encode_image(image[None], normalize=True).shape == (1, 64)


def test_the_folder_is_small_and_whole():
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja"}  # no pickles
    for path in files:
        if path.suffix == ".json":
            assert str(Path.home()) not in path.read_text() and "/work/" not in path.read_text()
    metrics = json.loads((MODELS / "metrics.json").read_text())
    assert metrics["iou_8px"] >= 0.7
    assert metrics["caption_colour"] >= 0.9
