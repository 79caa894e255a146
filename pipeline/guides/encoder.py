"""The dual encoder behind the text guide: open_clip, any architecture, and the paper's embedding of a patch.

"This is done by patchifying each frame and resizing each patch to full input resolution. We then take the CLS token
as the embedding per patch" (section 3.3): each cell of the grid is a picture of its own. What an architecture calls
its image embedding (projected class token, or a pooling head) is whatever its encode_image gives.

Legend: C captions, F frames, gh x gw cells, N = F * gh * gw crops, P pixels of a crop's side, S of the encoder's
input, D embedding width.
"""

from __future__ import annotations

import logging
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.factory import get_model_config
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg
from safetensors import SafetensorError

from pipeline.captioners.device import in_batches, torch_device
from pipeline.guides import Floats, Frames
from pipeline.guides.grid import grid
from pipeline.guides.resize import resize
from schemas.config import Text
from schemas.errors import UserError

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # open_clip's names; layer norms stay float32
LOCAL = "local-dir:"


class TextEncoder:
    """Raises UserError when the weights cannot be loaded, or would not be the ones asked for."""

    def __init__(self, options: Text) -> None:
        self._options = options
        self._batch_size = options.batch_size  # crops; lowered when memory runs out
        self._device = torch_device(options.device)
        self._dtype: torch.dtype = getattr(torch, options.precision)
        self._model = _load(options, self._device)
        self._tokenizer = open_clip.get_tokenizer(options.model)
        cfg = PreprocessCfg(**self._model.visual.preprocess_cfg)
        _, height, width = cfg.input_size
        if height != width:
            raise UserError(f"{options.model} takes pictures of {height}x{width} pixels; patches are square")
        self.input_size = height
        self._mode = "bilinear" if cfg.interpolation == "bilinear" else "bicubic"  # as open_clip reads it
        self._mean_311 = torch.tensor(cfg.mean, device=self._device).view(3, 1, 1)
        self._std_311 = torch.tensor(cfg.std, device=self._device).view(3, 1, 1)

    @torch.inference_mode()
    def text_embeddings(self, texts: list[str]) -> Floats:
        """float32 [C, D], of length 1. Texts beyond the encoder's context are cut, with a warning that counts them."""
        if cut := sum(self._too_long(text) for text in texts):
            logger.warning("%d of %d captions are longer than the text encoder's context and are cut", cut, len(texts))
        tokens = self._tokenizer(texts).to(self._device)
        return F.normalize(self._model.encode_text(tokens).float(), dim=-1).cpu().numpy()

    @torch.inference_mode()
    def score_frames(self, frames_FHW3: Frames, text_CD: Floats) -> Floats:
        """Cosine of each cell of each frame with each text: uint8 [F, H, W, 3] -> float32 [C, F, gh, gw].

        A frame is resized to the nearest size that whole cells of `patch` pixels tile.
        """
        count, height, width, _ = frames_FHW3.shape
        patch = self._options.patch
        gh, gw = grid(height, width, patch)
        images_F3HW = torch.from_numpy(frames_FHW3).to(self._device).permute(0, 3, 1, 2).float()
        images_F3HW = resize(images_F3HW, gh * patch, gw * patch)
        cells = images_F3HW.reshape(count, 3, gh, patch, gw, patch).permute(0, 2, 4, 1, 3, 5)
        crops_N3PP = cells.reshape(count * gh * gw, 3, patch, patch)
        text_DC = torch.from_numpy(text_CD).to(self._device).T
        parts, self._batch_size = in_batches(
            lambda part: self.embed(crops_N3PP[part]) @ text_DC, len(crops_N3PP), self._batch_size, self._options.model
        )
        return torch.cat(parts).T.reshape(-1, count, gh, gw).cpu().numpy()

    @torch.inference_mode()
    def embed(self, crops_N3PP: torch.Tensor) -> torch.Tensor:
        """float32 levels 0..255 [N, 3, P, P] -> float32 [N, D], of length 1."""
        images_N3SS = resize(crops_N3PP, self.input_size, self.input_size, self._mode)
        images_N3SS = (images_N3SS / 255 - self._mean_311) / self._std_311
        return F.normalize(self._model.encode_image(images_N3SS.to(self._dtype)).float(), dim=-1)

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
