"""What BLIP and BLIP-2 share: loading through transformers, settings of generate(), and sampling by frame.

Legend: B frames of a batch, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig, LogitsProcessorList, TopPLogitsWarper

from pipeline.captioners import Frame
from pipeline.runtime.device import in_batches, to_device, torch_device
from pipeline.runtime.model_check import hub_options
from pipeline.runtime.precision import precision_for
from schemas.config import FRAMES_AT_ONCE, Blip2
from schemas.errors import UserError


class GenerationCaptioner:
    """Greedy by default. Subclasses name the classes of transformers, and how a batch is put to them.

    Raises UserError when the model cannot be loaded.
    """

    section: str  # of the config under `caption`
    model_class: Any
    processor_class: Any

    def __init__(self, options: Blip2) -> None:
        self.batch_size, self.samples = options.batch_size or FRAMES_AT_ONCE, options.sample
        self._options = options
        self._device = torch_device(options.device)
        self._dtype: torch.dtype = getattr(torch, precision_for(options.dtype, self._device.type))
        self._model, self._processor = self._load()

    def caption(self, frames: list[Frame]) -> list[str]:
        """One text a frame. Out of memory halves the batch, for good, and goes on; at one frame it is a UserError."""
        return self._in_batches(frames, None)

    def caption_seeded(self, frames: list[Frame], seeds: list[int]) -> list[str]:
        return self._in_batches(frames, seeds)

    def _in_batches(self, frames: list[Frame], seeds: list[int] | None) -> list[str]:
        def run(part: slice) -> list[str]:
            processors = None if seeds is None else self._drawing(seeds[part])
            return [text.strip() for text in self._generate(frames[part], {**settings, "logits_processor": processors})]

        settings = self._settings()
        texts, self.batch_size = in_batches(run, len(frames), self.batch_size, self._options.model)
        return [text for batch in texts for text in batch]

    def _generate(self, batch: list[Frame], settings: dict[str, Any]) -> list[str]:
        raise NotImplementedError

    def _pixels(self, batch: list[Frame]) -> torch.Tensor:
        """[B, 3, H, W] as the model takes them."""
        processor = self._processor.image_processor
        options: dict[str, Any] = {"return_tensors": "pt", "input_data_format": "channels_last"}
        if self._device.type == "cuda" and getattr(processor, "backend", "") == "torchvision":
            options["device"] = self._device  # resized and normalised there
        pixels: torch.Tensor = processor(images=batch, **options)["pixel_values"]
        return to_device(pixels, self._device).to(self._dtype)

    def _settings(self) -> dict[str, Any]:
        options = self._options
        settings: dict[str, Any] = {
            "do_sample": False,
            "num_beams": options.num_beams,
            "max_new_tokens": options.max_new_tokens,
            "min_new_tokens": options.min_new_tokens,
            "repetition_penalty": options.repetition_penalty,
        }
        if options.num_beams > 1:
            settings["length_penalty"] = options.length_penalty
        return settings

    def _drawing(self, seeds: list[int]) -> LogitsProcessorList:
        """Sampling as the search for the greatest of noisy scores: with Gumbel noise the arg max is a draw from their
        softmax. Each frame has noise of its own, which generate()'s own sampling cannot give."""
        return LogitsProcessorList(
            [_Temperature(self._options.temperature), TopPLogitsWarper(self._options.top_p), GumbelNoise(seeds)]
        )

    def _load(self) -> tuple[Any, Any]:
        options = self._options
        where = hub_options(options.model, options.revision)
        how: dict[str, Any] = {"dtype": self._dtype, "output_loading_info": True, **where}
        if options.load_in_8bit:
            how |= {"quantization_config": _eight_bit(f"caption.{self.section}"), "device_map": {"": self._device}}
        try:
            processor = self.processor_class.from_pretrained(options.model, **where)
            model, report = self.model_class.from_pretrained(options.model, **how)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"cannot load the captioner caption.{self.section}.model = {options.model!r}: {reason}. Give a folder "
                "saved with save_pretrained (model and processor), or a hub name; a hub name needs the network once"
            ) from error
        if report["missing_keys"]:  # transformers fills them with random numbers and reports it in passing
            missing = sorted(report["missing_keys"])
            raise UserError(
                f"{options.model} lacks {len(missing)} weights of a {self.model_class.__name__} ({missing[0]}, ...): "
                "it is another kind of model, or the download is incomplete"
            )
        return (model if options.load_in_8bit else model.to(self._device)).eval(), processor


class _Temperature:
    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores / self._temperature


class GumbelNoise:
    """Adds noise to the scores [B, V] of each step, from a generator a row."""

    def __init__(self, seeds: list[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        width = scores.shape[1]
        uniform_BV = torch.stack([torch.rand(width, generator=each, dtype=torch.float64) for each in self._generators])
        tiny = torch.finfo(torch.float64).tiny
        exponential_BV = (-torch.log(uniform_BV.clamp(min=tiny))).clamp(min=tiny)
        noise_BV = -torch.log(exponential_BV)
        return scores.float() + noise_BV.to(scores.device, torch.float32)


def _eight_bit(section: str, found: Callable[[str], object | None] = find_spec) -> BitsAndBytesConfig:
    missing = [name for name in ("bitsandbytes", "accelerate") if found(name) is None]
    if missing:
        raise UserError(
            f"{section}.load_in_8bit needs {' and '.join(missing)}: pip install {' '.join(missing)}, "
            f"or set {section}.dtype = 'bfloat16' instead"
        )
    return BitsAndBytesConfig(load_in_8bit=True)
