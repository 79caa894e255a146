"""The `blip` source: Hugging Face's BlipForConditionalGeneration, a caption a frame.

Legend: B frames of a batch, P tokens of the prompt between BERT's first and last token, T tokens generated.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BlipForConditionalGeneration, BlipProcessor

from pipeline.captioners import Frame
from pipeline.captioners.generation import GenerationCaptioner


class BlipCaptioner(GenerationCaptioner):
    section = "blip"
    model_class = BlipForConditionalGeneration
    processor_class = BlipProcessor

    @torch.inference_mode()
    def _generate(self, batch: list[Frame], settings: dict[str, Any]) -> list[str]:
        """BLIP's generate() puts its own first token in place of BERT's and drops the last."""
        tokenizer = self._processor.tokenizer
        prompt: list[int] = tokenizer(self._options.prompt)["input_ids"]
        input_ids_BP = torch.tensor([prompt] * len(batch), device=self._device)  # not expanded: it is written to
        tokens_BT = self._model.generate(
            pixel_values=self._pixels(batch),
            input_ids=input_ids_BP,
            attention_mask=torch.ones_like(input_ids_BP),
            **settings,
        )
        said_BT = tokens_BT[:, len(prompt) - 1 :]
        texts: list[str] = tokenizer.batch_decode(said_BT, skip_special_tokens=True)
        return texts
