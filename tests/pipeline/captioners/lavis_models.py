"""Models of LAVIS' BLIP architecture, small and random, for its registry: a file for `caption.lavis.models`.

Runs in LAVIS' environment only.
"""

import json
import tempfile
from pathlib import Path

import torch
from lavis.common.registry import registry
from lavis.models.blip_models.blip_caption import BlipCaption
from lavis.models.med import BertConfig, XBertLMHeadDecoder
from lavis.models.vit import VisionTransformerEncoder
from transformers import BertTokenizer

FOLDER = Path(tempfile.mkdtemp())
WORDS = ["a", "picture", "of", *(f"w{n}" for n in range(17))]
(FOLDER / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
(FOLDER / "small.yaml").write_text(json.dumps({
    "model": {"prompt": "a picture of "},
    "preprocess": {"vis_processor": {"eval": {"name": "blip_image_eval", "image_size": 32}},
                   "text_processor": {"eval": {"name": "blip_caption"}}},
}))  # fmt: skip


@registry.register_model("small_caption")
class SmallCaption(BlipCaption):
    PRETRAINED_MODEL_CONFIG_DICT = {"random": str(FOLDER / "small.yaml")}  # noqa: RUF012

    @classmethod
    def init_tokenizer(cls):
        tokenizer = BertTokenizer(str(FOLDER / "vocab.txt"))
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        tokenizer.enc_token_id = tokenizer.additional_special_tokens_ids[0]
        return tokenizer

    @classmethod
    def from_config(cls, cfg):
        torch.manual_seed(0)
        tower = VisionTransformerEncoder(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=4)
        config = BertConfig(
            vocab_size=len(WORDS) + 7, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=96, encoder_width=48, add_cross_attention=True, add_type_embeddings=False,
        )  # fmt: skip
        model = cls(tower, XBertLMHeadDecoder(config), prompt=cfg.prompt)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.5)  # so that pictures differ in what is said of them
        return model
