"""The dual encoder behind the text guide: open_clip, any architecture.

Two ways to embed the cells of a frame: each as a picture of its own, the paper's (pipeline/guides/crops.py), or all in
one pass of the whole frame (pipeline/guides/dense.py).

Legend: C captions, F frames, H x W pixels, gh x gw cells, D embedding width.
"""

from __future__ import annotations

import logging
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.factory import get_model_config
from open_clip.pretrained import get_pretrained_cfg
from safetensors import SafetensorError

from pipeline.guides import Floats, Frames
from pipeline.guides.crops import Crops
from pipeline.guides.dense import Dense
from pipeline.guides.encoder_inputs import inputs_of
from pipeline.runtime.device import to_device, torch_device
from pipeline.runtime.precision import precision_for
from schemas.config import Text
from schemas.errors import UserError

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # open_clip's names; layer norms stay float32
LOCAL = "local-dir:"


class TextEncoder:
    """Raises UserError when the weights cannot be loaded, would not be the ones asked for, or when the architecture
    cannot do what is asked for."""

    def __init__(self, options: Text) -> None:
        self._device = torch_device(options.device)
        options = options.model_copy(update={"precision": precision_for(options.precision, self._device.type)})
        self._model = _load(options, self._device)
        self._tokenizer = open_clip.get_tokenizer(options.model)
        self._inputs = inputs_of(self._model, options.model, getattr(torch, options.precision), self._device)
        self.points = options.pitch < options.patch
        self.cells = (Dense if options.method == "dense" else Crops)(self._model, self._inputs, options)

    @torch.inference_mode()
    def text_embeddings(self, texts: list[str]) -> Floats:
        """float32 [C, D], of length 1. Texts beyond the encoder's context are cut, with a warning that counts them."""
        if cut := sum(self._too_long(text) for text in texts):
            logger.warning("%d of %d captions are longer than the text encoder's context and are cut", cut, len(texts))
        tokens = self._tokenizer(texts).to(self._device)
        return F.normalize(self._model.encode_text(tokens).float(), dim=-1).cpu().numpy()

    @torch.inference_mode()
    def features(self, frames_FHW3: Frames) -> Floats:
        """The embedding of each cell: uint8 [F, H, W, 3] -> float32 [F, gh, gw, D], of length 1."""
        return self._embedded(frames_FHW3).cpu().numpy()

    @torch.inference_mode()
    def score_frames(self, frames_FHW3: Frames, text_CD: Floats) -> Floats:
        """Cosine of each cell of each frame with each text: uint8 [F, H, W, 3] -> float32 [C, F, gh, gw]."""
        scores_FhwC = self._embedded(frames_FHW3) @ torch.from_numpy(text_CD).to(self._device).T
        return scores_FhwC.movedim(-1, 0).cpu().numpy()

    def _embedded(self, frames_FHW3: Frames) -> torch.Tensor:
        return self.cells(to_device(torch.from_numpy(frames_FHW3), self._device).permute(0, 3, 1, 2).float())

    def _too_long(self, text: str) -> bool:
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "tokenizer"):  # a Hugging Face tokenizer inside, which adds its own marks
            length = len(tokenizer.tokenizer(tokenizer.clean_fn(text))["input_ids"])
        else:
            length = len(tokenizer.encode(text)) + 2  # start and end marks
        return bool(length > tokenizer.context_length)


def _load(options: Text, device: torch.device) -> Any:
    _check_activation(options)
    pretrained = None if options.model.startswith((LOCAL, "hf-hub:")) else options.pretrained
    if pretrained == "":
        raise UserError(f"text.pretrained is empty: {options.model} would have random weights. Give a tag or a file")
    try:
        model = open_clip.create_model(
            options.model,
            pretrained=pretrained,
            precision=PRECISIONS[options.precision],
            device=device,
            force_image_size=options.crop_size or None,  # open_clip interpolates the positions
            require_pretrained=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:500]
        raise UserError(
            f"cannot load text.model = {options.model!r}, text.pretrained = {options.pretrained!r}: {reason}. "
            "Allowed: an open_clip architecture with a tag (network needed once) or a weights file, or local-dir:FOLDER"
        ) from error
    return model.eval()


def _check_activation(options: Text) -> None:
    """open_clip only warns when weights trained with QuickGELU meet a model without it, or the other way round;
    the embeddings are then silently worse. Of a weights file nothing is known: there the model's name decides."""
    name = options.model.replace("/", "-")
    tag, config = get_pretrained_cfg(name, options.pretrained), None if ":" in name else get_model_config(name)
    if not tag or config is None:
        return
    trained, asked = bool(tag.get("quick_gelu", False)), bool(config.get("quick_gelu", False))
    if trained != asked:
        other = f"{name}-quickgelu" if trained else name.removesuffix("-quickgelu")
        raise UserError(
            f"the weights {options.pretrained!r} were trained {'with' if trained else 'without'} QuickGELU, and "
            f"{options.model} is built {'with' if asked else 'without'}: set text.model = {other!r}"
        )
