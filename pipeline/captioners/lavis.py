"""The `lavis` source: captions by salesforce-lavis 1.0.2, the library that the paper used (section 3.2).

The one file that imports lavis. It runs in an environment of its own (pipeline/captioners/lavis_environment.py), where
transformers is of early 2023. LAVIS' checkpoints are pickles, which torch opens with weights_only.
"""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import torch
from lavis.common.registry import registry
from lavis.models import load_model_and_preprocess
from PIL import Image

from pipeline.captioners import Frame
from pipeline.runtime.device import in_batches, torch_device
from schemas.config import FRAMES_AT_ONCE, Lavis
from schemas.errors import UserError, choice_error


class LavisCaptioner:
    """Raises UserError for a model that LAVIS does not know, or cannot load."""

    def __init__(self, options: Lavis) -> None:
        self.batch_size = options.batch_size or FRAMES_AT_ONCE
        self._name = f"{options.name}/{options.model_type}"
        self._device = torch_device(options.device)
        if options.models:
            _register(options.models)
        _check(options.name, options.model_type)
        try:
            self._model, processors, _ = load_model_and_preprocess(
                options.name, options.model_type, is_eval=True, device=self._device
            )
        except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:
            raise UserError(
                f"LAVIS cannot load caption.lavis: {self._name}: {' '.join(str(error).split())[:500]}. It downloads "
                "weights once, so the network is needed the first time"
            ) from error
        self._processor = processors["eval"]
        if options.prompt:
            self._model.prompt = options.prompt
        asked = {name: getattr(options, name) for name in ("num_beams", "max_length", "min_length")}
        self._settings = {name: value for name, value in asked.items() if value}

    def caption(self, frames: list[Frame]) -> list[str]:
        """One text a frame. Out of memory halves the batch, for good, and goes on; at one frame it is a UserError."""

        def run(part: slice) -> list[str]:
            pictures = [self._processor(Image.fromarray(frame)) for frame in frames[part]]
            texts: list[str] = self._model.generate({"image": torch.stack(pictures).to(self._device)}, **self._settings)
            return [text.strip() for text in texts]

        with torch.inference_mode():
            texts, self.batch_size = in_batches(run, len(frames), self.batch_size, self._name)
        return [text for batch in texts for text in batch]


def _register(path: str) -> None:
    """Runs a file that registers models of one's own, once a process."""
    spec = spec_from_file_location("lavis_models_of_ones_own", path)
    if spec is None or spec.loader is None:
        raise UserError(f"caption.lavis.models = {path!r} is no Python file")
    try:
        spec.loader.exec_module(module_from_spec(spec))
    except Exception as error:  # code of the user's
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        raise UserError(f"caption.lavis.models = {path!r} cannot be run: {reason}") from error


def _check(name: str, model_type: str) -> None:
    known: dict[str, Any] = registry.mapping["model_name_mapping"]
    captioners = [each for each, model in known.items() if callable(getattr(model, "generate", None))]
    if name not in captioners:
        raise choice_error("caption.lavis.name", name, captioners)
    types = known[name].PRETRAINED_MODEL_CONFIG_DICT
    if model_type not in types:
        raise choice_error(f"caption.lavis.model_type of {name}", model_type, types)
