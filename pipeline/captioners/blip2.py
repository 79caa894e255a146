"""The `blip2` source: Hugging Face's Blip2ForConditionalGeneration, a caption a frame (section 3.2).

Legend: B frames of a batch, Q query tokens of the Q-Former, P tokens of the prompt, T tokens generated.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from pipeline.captioners import Frame
from pipeline.captioners.device import in_batches, torch_device
from schemas.config import Blip2
from schemas.errors import UserError


class Blip2Captioner:
    """Greedy by default, without sampling, so that the same frames give the same captions.

    Raises UserError when the model cannot be loaded or does not say where its query tokens go.
    """

    def __init__(self, options: Blip2) -> None:
        self.batch_size = options.batch_size
        self._options = options
        self._device = torch_device(options.device)
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._model, self._processor = _load(options, self._dtype)
        self._model.to(self._device).eval()
        self._input_ids = torch.tensor(self._prompt_ids(), device=self._device)  # [Q + P]

    def caption(self, frames: list[Frame]) -> list[str]:
        """One text a frame. Out of memory halves the batch, for good, and goes on; at one frame it is a UserError."""
        texts, self.batch_size = in_batches(
            lambda part: self._generate(frames[part]), len(frames), self.batch_size, self._options.model
        )
        return [text for batch in texts for text in batch]

    @torch.inference_mode()
    def _generate(self, batch: list[Frame]) -> list[str]:
        images = self._processor.image_processor(images=batch, return_tensors="pt", input_data_format="channels_last")
        input_ids_BL = self._input_ids.expand(len(batch), -1)
        tokens_BT = self._model.generate(
            pixel_values=images["pixel_values"].to(self._device, self._dtype),
            input_ids=input_ids_BL,
            attention_mask=torch.ones_like(input_ids_BL),
            do_sample=False,
            num_beams=self._options.num_beams,
            max_new_tokens=self._options.max_new_tokens,
        )
        if not self._model.config.text_config.is_encoder_decoder:
            tokens_BT = tokens_BT[:, input_ids_BL.shape[1] :]  # a decoder repeats what it was given
        texts: list[str] = self._processor.tokenizer.batch_decode(tokens_BT, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _prompt_ids(self) -> list[int]:
        """Q image tokens, then the prompt as the tokenizer starts a sentence.

        Blip2Processor builds the same, but only where its own file names Q, which older hub files do not;
        the model's config always does.
        """
        config, tokenizer = self._model.config, self._processor.tokenizer
        if config.image_token_index is None:
            raise UserError(
                f"{self._options.model}: config.json has no image_token_index, so the frame would never reach the "
                "language model. Use a newer revision of the model, or update the folder with transformers' "
                "convert script"
            )
        prompt: list[int] = tokenizer(self._options.prompt)["input_ids"]
        if not prompt:  # a tokenizer that adds no first token: generate() would start from bos
            prompt = [config.text_config.bos_token_id]
        return [config.image_token_index] * config.num_query_tokens + prompt


def _load(options: Blip2, dtype: torch.dtype) -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    where = {} if Path(options.model).is_dir() else {"revision": options.revision}
    try:
        processor = Blip2Processor.from_pretrained(options.model, **where)
        model, report = Blip2ForConditionalGeneration.from_pretrained(
            options.model, dtype=dtype, output_loading_info=True, **where
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot load the captioner caption.blip2.model = {options.model!r}: {reason}. Give a folder saved with "
            "save_pretrained (model and processor), or a hub name; a hub name needs the network once"
        ) from error
    if report["missing_keys"]:  # transformers fills them with random numbers and says so in passing
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"{options.model} lacks {len(missing)} weights of a Blip2ForConditionalGeneration ({missing[0]}, ...): "
            "it is another kind of model, or the download is incomplete"
        )
    return model, processor
