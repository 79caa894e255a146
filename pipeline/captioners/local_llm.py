"""A causal language model of transformers, run here, in place of an endpoint."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.captioners import seed_of
from pipeline.captioners.llm_answers import Reply
from pipeline.runtime.device import torch_device
from pipeline.runtime.model_check import hub_options
from pipeline.runtime.model_identity import weights
from pipeline.runtime.precision import precision_for
from schemas.config import Llm
from schemas.errors import UserError


class LocalModel:
    """Samples with a seed of the prompt, the sample's number and the attempt: the same question, the same answer.

    A prompt goes through the tokenizer's chat template where there is one. Raises UserError when the model cannot
    be loaded.
    """

    def __init__(self, options: Llm) -> None:
        self._options, self._device = options, torch_device(options.device)
        dtype = precision_for(options.dtype, self._device.type)
        self.identity: dict[str, Any] = {**weights(options.local, options.revision), "dtype": dtype}
        where = hub_options(options.local, options.revision)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(options.local, **where)
            model = AutoModelForCausalLM.from_pretrained(options.local, dtype=getattr(torch, dtype), **where)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise UserError(
                f"cannot load the language model caption.llm.local = {options.local!r}: {' '.join(str(error).split())}"
            ) from error
        self._model = model.to(self._device).eval()

    @torch.inference_mode()
    def ask(self, prompt: str, sample: int, attempt: int) -> Reply:
        options, tokenizer = self._options, self._tokenizer
        if tokenizer.chat_template:
            message = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
        input_ids = inputs["input_ids"].to(self._device)
        drawn = {"do_sample": True, "temperature": options.temperature, "top_k": 0} if options.temperature else {}
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed_of(0, prompt, sample, attempt))
            tokens = self._model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=options.max_tokens,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
                **(drawn or {"do_sample": False}),
            )[0, input_ids.shape[1] :]
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        return Reply(text, input_ids.shape[1], len(tokens))
