"""BLIP's real classes with small random weights, and what it shares with BLIP-2: sampling by frame, 8 bits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

from pipeline.captioners.blip import BlipCaptioner
from pipeline.captioners.generation import GumbelNoise
from pipeline.runtime.model_identity import captioner_identity
from schemas.config import Blip, Blip2, Caption
from schemas.errors import UserError
from tests.pipeline.captioners.test_blip2 import captioner, frames, save_blip2

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "a", "photo", "of", *(f"w{n}" for n in range(40))]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BlipForConditionalGeneration of two layers a part, with its processor."""
    folder = tmp_path_factory.mktemp("blip")
    ids = {word: number for number, word in enumerate(WORDS)}
    core = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        additional_special_tokens=["[DEC]"],
    )  # fmt: skip
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": 4, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        vision_config={**layers, "image_size": 28, "patch_size": 14},
        text_config={**layers, **marks, "vocab_size": len(WORDS), "encoder_hidden_size": 32,
                     "max_position_embeddings": 64},
    )  # fmt: skip
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 28, "width": 28}), tokenizer).save_pretrained(folder)
    return folder


def blip_captioner(folder: Path, **options: Any) -> BlipCaptioner:
    return BlipCaptioner(Blip(model=str(folder), device="cpu", **{"batch_size": 4, "max_new_tokens": 8, **options}))


@pytest.mark.parametrize("prompt", ["", "a photo of"])
def test_blip_agrees_with_transformers_own_way(blip: Path, prompt: str) -> None:
    pictures = frames(5)
    processor = BlipProcessor.from_pretrained(blip)
    model = BlipForConditionalGeneration.from_pretrained(blip, dtype=torch.float32).eval()
    inputs = processor(images=pictures, text=[prompt] * 5, return_tensors="pt") if prompt else processor(
        images=pictures, return_tensors="pt"
    )  # fmt: skip
    expected = [
        text.strip().removeprefix(prompt).strip()
        for text in processor.batch_decode(model.generate(**inputs, max_new_tokens=8), skip_special_tokens=True)
    ]
    assert blip_captioner(blip, prompt=prompt).caption(pictures) == expected
    assert len(set(expected)) > 1


def test_blip_weights_are_not_blip2s(blip: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"caption.blip.model|lacks .* weights"):
        blip_captioner(save_blip2(tmp_path))


def test_sampling_depends_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    pictures, seeds = frames(6), [11, 12, 13, 14, 15, 16]
    model = captioner(save_blip2(tmp_path), sample=True, temperature=30.0, top_p=1.0, batch_size=6)
    together = model.caption_seeded(pictures, seeds)
    assert len(set(together)) > 1
    model.batch_size = 1
    assert model.caption_seeded(pictures, seeds) == together
    assert model.caption_seeded(pictures[::-1], seeds[::-1]) == together[::-1]
    model.batch_size = 6
    assert model.caption_seeded(pictures[:1] * 6, seeds) != [together[0]] * 6  # other seeds, other words


def test_gumbel_noise_draws_from_the_softmax() -> None:
    scores_BV = torch.tensor([[2.0, 1.0, 0.0, -torch.inf]]).expand(4000, -1)
    drawn = GumbelNoise(list(range(4000)))(torch.empty(0), scores_BV).argmax(1).tolist()
    shares = torch.softmax(scores_BV[0], 0)
    for word in range(4):
        assert Counter(drawn)[word] / 4000 == pytest.approx(float(shares[word]), abs=0.03)


def test_sampling_and_beams_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="choose one"):
        Blip2(sample=True, num_beams=3)


def test_settings_that_change_nothing_are_no_part_of_the_identity() -> None:
    def identity(**options: Any) -> dict[str, Any]:
        return captioner_identity("blip2", Caption(blip2=Blip2(**options)))

    plain = identity()
    assert plain == identity(temperature=3, top_p=0.1, length_penalty=2, device="cpu")
    others = [identity(sample=True), identity(num_beams=2, length_penalty=2), identity(min_new_tokens=2)]
    assert all(other != plain for other in others)
    assert captioner_identity("blip2", Caption(seed=5)) == plain  # nothing is drawn
    assert captioner_identity("blip2", Caption(placing="random", seed=5)) != captioner_identity(
        "blip2", Caption(placing="random")
    )


def test_eight_bits_need_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"pip install bitsandbytes.*dtype = 'bfloat16'"):
        captioner(save_blip2(tmp_path), load_in_8bit=True)
