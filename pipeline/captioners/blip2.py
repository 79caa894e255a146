"""The `blip2` source: Hugging Face's Blip2ForConditionalGeneration, a caption a frame (section 3.2).

Legend: B frames of a batch, Q query tokens of the Q-Former, P tokens of the prompt, L = Q + P, T tokens generated.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from pipeline.captioners import Frame
from pipeline.captioners.generation import GenerationCaptioner
from schemas.config import Blip2
from schemas.errors import UserError


class Blip2Captioner(GenerationCaptioner):
    """Raises UserError also when the model does not say where its query tokens go."""

    section = "blip2"
    model_class = Blip2ForConditionalGeneration
    processor_class = Blip2Processor

    def __init__(self, options: Blip2) -> None:
        super().__init__(options)
        self._input_ids_L = torch.tensor(self._prompt_ids(), device=self._device)

    @torch.inference_mode()
    def _generate(self, batch: list[Frame], settings: dict[str, Any]) -> list[str]:
        input_ids_BL = self._input_ids_L.expand(len(batch), -1)
        tokens_BT = self._model.generate(
            pixel_values=self._pixels(batch),
            input_ids=input_ids_BL,
            attention_mask=torch.ones_like(input_ids_BL),
            **settings,
        )
        if not self._model.config.text_config.is_encoder_decoder:
            tokens_BT = tokens_BT[:, input_ids_BL.shape[1] :]  # a decoder repeats what it was given
        texts: list[str] = self._processor.tokenizer.batch_decode(tokens_BT, skip_special_tokens=True)
        return texts

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
