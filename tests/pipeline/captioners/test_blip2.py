"""Captioners without Ray: the keyframe rule, the oracle, and BLIP-2's real classes with small random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    PreTrainedTokenizerFast,
)

from pipeline.caption_sets import captioner_maker
from pipeline.captioners import TimedText
from pipeline.captioners.blip2 import Blip2Captioner
from pipeline.captioners.oracle import NoLabel, OracleCaptioner
from pipeline.media.keyframes import keyframe_indices
from pipeline.runtime.device import torch_device
from schemas.config import Blip2, Experiment, Oracle
from schemas.errors import UserError

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *(f"w{n}" for n in range(60)), "a", "photo", "of"]
PROMPT = "a photo of"


def save_blip2(folder: Path, language: str = "opt", seed: int = 0) -> Path:
    """A Blip2ForConditionalGeneration of two layers a part, with its processor, as save_pretrained leaves them."""
    ids = {word: number for number, word in enumerate(WORDS)}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    # OPT starts a sentence with a token, T5 ends it with one.
    single, mark = ("<s> $A", "<s>") if language == "opt" else ("$A </s>", "</s>")
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[(mark, ids[mark])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    marks = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text: dict[str, Any] = {
        "opt": {"model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
                "num_attention_heads": 2, "max_position_embeddings": 64, "word_embed_proj_dim": 32, **marks},
        "t5": {"model_type": "t5", "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2,
               "decoder_start_token_id": 0, **marks},
    }[language]  # fmt: skip
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**layers, "image_size": 28, "patch_size": 14},
        qformer_config={**layers, "encoder_hidden_size": 32, "vocab_size": len(WORDS)},
        text_config=text,
        num_query_tokens=4,
        image_token_index=ids["<image>"],
    )
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config).eval()
    # Random weights of the usual size caption every picture alike; larger ones tell pictures apart.
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
        model.query_tokens.normal_()
    model.save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 28, "width": 28})
    Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["opt", "t5"])
def blip2(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip2(tmp_path_factory.mktemp("blip2") / request.param, request.param)


def frames(count: int, height: int = 40, width: int = 50) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height + 2 * n, width, 3), dtype=np.uint8) for n in range(count)]


def captioner(folder: Path, **options: Any) -> Blip2Captioner:
    return Blip2Captioner(Blip2(model=str(folder), device="cpu", **{"batch_size": 4, "max_new_tokens": 8, **options}))


@given(st.integers(1, 100_000), st.integers(1, 50))
def test_keyframes_are_midpoints_of_equal_parts(total: int, count: int) -> None:
    indices = keyframe_indices(total, count)
    assert indices == sorted(set(indices)) and len(indices) == min(count, total)
    assert min(indices) >= 0 and max(indices) < total
    for part, index in enumerate(indices if count <= total else []):
        middle = (part + 0.5) * total / count
        assert index <= middle < index + 1  # the frame that is on screen at the midpoint


def test_keyframes_by_hand() -> None:
    assert keyframe_indices(90, 3) == [15, 45, 75]
    assert keyframe_indices(101, 1) == [50]
    assert keyframe_indices(2, 3) == [0, 1]
    with pytest.raises(ValueError, match="at least 1"):
        keyframe_indices(0, 3)


@given(st.integers(1, 1000), st.integers(1, 50), st.integers(0))
def test_random_keyframes(total: int, count: int, seed: int) -> None:
    indices = keyframe_indices(total, count, seed)
    assert indices == sorted(set(indices)) == keyframe_indices(total, count, seed)
    assert len(indices) == min(count, total) and min(indices) >= 0 and max(indices) < total


def test_oracle_says_the_label() -> None:
    oracle = OracleCaptioner(Oracle(template="a video of {}"))
    row = {"label_text": "{}ing {0} things", "text": "juggling"}
    assert oracle.describe(row) == [TimedText("a video of {}ing {0} things")]
    with pytest.raises(NoLabel, match="no label text"):
        oracle.describe({"label_text": None, "text": None})
    with pytest.raises(UserError, match="has no"):
        OracleCaptioner(Oracle(template="a video"))


@pytest.mark.parametrize("label", ["Holding [something] up", "Holding something up"])
def test_oracle_fills_the_places_of_a_label(label: str) -> None:
    row = {"label_text": label, "text": "holding a potato up"}
    assert OracleCaptioner(Oracle(template="video: {}")).describe(row) == [TimedText("video: holding a potato up")]
    assert OracleCaptioner(Oracle()).describe({**row, "text": None}) == [TimedText(label)]  # as in a test set
    assert OracleCaptioner(Oracle(fill=False)).describe(row) == [TimedText(label)]


def test_unknown_source_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'blip2'"):
        captioner_maker("blip22", Experiment(workspace="w"))()


def test_unknown_device() -> None:
    with pytest.raises(UserError, match="Allowed: auto, cpu"):
        torch_device("gpu")
    assert torch_device("auto").type in ("cpu", "cuda")


def test_blip2_agrees_with_transformers_own_way(blip2: Path) -> None:
    """Prompt ids as Blip2Processor builds them; the caption is what generate adds to them."""
    pictures = frames(3)
    processor = Blip2Processor.from_pretrained(blip2)
    model = Blip2ForConditionalGeneration.from_pretrained(blip2, dtype=torch.float32).eval()
    inputs = processor(images=pictures, text=[PROMPT] * 3, return_tensors="pt")
    out = model.generate(**inputs, do_sample=False, max_new_tokens=8)
    new = out if model.config.text_config.is_encoder_decoder else out[:, inputs["input_ids"].shape[1] :]
    expected = [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    said = captioner(blip2, prompt=PROMPT).caption(pictures)
    assert said == expected
    assert any(said) and not any(text.startswith(PROMPT) for text in said)


def test_blip2_without_a_prompt_agrees_with_generate(tmp_path: Path) -> None:
    folder, pictures = save_blip2(tmp_path), frames(2)
    processor = Blip2Processor.from_pretrained(folder)
    model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    out = model.generate(**processor(images=pictures, return_tensors="pt"), do_sample=False, max_new_tokens=8)
    expected = [text.strip() for text in processor.batch_decode(out, skip_special_tokens=True)]
    assert captioner(folder).caption(pictures) == expected


def test_blip2_tells_pictures_apart_and_repeats_itself(blip2: Path) -> None:
    pictures, model = frames(6), captioner(blip2)
    said = model.caption(pictures)
    assert len(said) == 6 and len(set(said)) > 1
    assert model.caption(pictures) == said
    assert [model.caption([picture])[0] for picture in pictures] == said


def test_blip2_beams(blip2: Path) -> None:
    assert len(captioner(blip2, num_beams=3).caption(frames(2))) == 2


def test_blip2_needs_no_query_tokens_in_the_processors_file(tmp_path: Path) -> None:
    """Older hub files lack it; transformers then leaves the picture out without a word."""
    pictures, folder = frames(4), save_blip2(tmp_path)
    said = captioner(folder, prompt=PROMPT).caption(pictures)
    config = json.loads((folder / "processor_config.json").read_text())
    del config["num_query_tokens"]
    (folder / "processor_config.json").write_text(json.dumps(config))
    assert captioner(folder, prompt=PROMPT).caption(pictures) == said


def test_blip2_without_image_token_is_refused(tmp_path: Path) -> None:
    folder = save_blip2(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["image_token_index"] = None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="image_token_index"):
        captioner(folder)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]
)
def test_out_of_memory_halves_the_batch(blip2: Path, error: RuntimeError, caplog: pytest.LogCaptureFixture) -> None:
    model, pictures = captioner(blip2, batch_size=8), frames(7)
    expected = model.caption(pictures)
    limited = short_of_memory(model, room=2, error=error)
    assert model.caption(pictures) == expected
    assert limited.sizes == [7, 4, 2, 2, 2, 1] and model.batch_size == 2
    assert "going on with batches of 2" in caplog.text


def test_out_of_memory_with_one_frame_is_final(blip2: Path) -> None:
    model = captioner(blip2)
    short_of_memory(model, room=0, error=torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(UserError, match="single picture"):
        model.caption(frames(3))


def short_of_memory(model: Blip2Captioner, room: int, error: RuntimeError) -> Any:
    """The model becomes one of a class that has room for so many pictures; the class notes what was tried."""

    class Limited(Blip2ForConditionalGeneration):
        sizes: ClassVar[list[int]] = []

        def generate(self, **inputs: Any) -> Any:
            self.sizes.append(len(inputs["pixel_values"]))
            if self.sizes[-1] > room:
                raise error
            return super().generate(**inputs)

    model._model.__class__ = Limited
    return Limited


def test_other_errors_are_not_taken_for_memory(blip2: Path) -> None:
    with pytest.raises(ValueError, match="list of images"):
        captioner(blip2).caption([np.zeros((4, 4), np.uint8)])


@pytest.mark.parametrize("problem", ["missing", "empty", "weights", "half"])
def test_a_model_that_cannot_be_loaded(tmp_path: Path, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    if problem == "missing":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read at import
        with pytest.raises(UserError, match=r"cannot load the captioner .*no/such-model.*hub name"):
            Blip2Captioner(Blip2(model="no/such-model", device="cpu"))
        return
    if problem == "empty":
        folder.mkdir()
    else:
        save_blip2(folder)
        weights = folder / "model.safetensors"
        if problem == "weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        else:
            kept = {name: tensor for name, tensor in load_file(weights).items() if "qformer" not in name}
            save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks .* weights" if problem == "half" else "cannot load the captioner"):
        Blip2Captioner(Blip2(model=str(folder), device="cpu"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_blip2_in_half_precision(blip2: Path, dtype: str) -> None:
    assert len(captioner(blip2, dtype=dtype).caption(frames(2))) == 2
