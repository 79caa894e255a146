"""Which captioner makes a set: of frames, or of what is known without looking, with what is stored next to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.captioners import FrameCaptioner, RowCaptioner, make_captioner
from pipeline.captioners.own_captioner import OwnCaptioner, own
from pipeline.runtime.units import Row
from pipeline.stage_specs import mixed
from schemas.config import Experiment, Llm, caption_source
from schemas.workspace import Workspace


@dataclass(frozen=True)
class RowSource:
    captioner: RowCaptioner
    notes: Mapping[str, bytes] = field(default_factory=dict)  # files next to captions.parquet


def captioner_maker(source: str, experiment: Experiment) -> Callable[[], FrameCaptioner]:
    """Loads the captioner of frames, where it is called: travels to the workers.

    Raises UserError when the file of a class of one's own is missing.
    """
    if ":" in source:
        return partial(OwnCaptioner, source, own(source).source(), experiment)
    return partial(make_captioner, source, experiment)


def source_tools(source: str) -> list[str]:
    """The packages whose versions the record of a set names."""
    if ":" in source and "+" not in source:
        return [*own(source).tools(), "av"]
    return ["av"] if source == "lavis" else ["transformers", "torch", "av"]


def row_source(experiment: Experiment, manifest: list[Row]) -> RowSource | None:
    """The captioner of a set that needs no frames, ready to describe; None for a set that does.

    Raises UserError when the source cannot be read or asked.
    """
    workspace, caption = Workspace(Path(experiment.workspace)), experiment.caption
    name, source = experiment.captions, caption_source(experiment.captions)
    if "+" in name:
        from pipeline.captioners.mix import MixCaptioner

        return RowSource(MixCaptioner({part: workspace.captions(part) for part in mixed(name)}, caption.mix.weights))
    if source == "oracle":
        from pipeline.captioners.oracle import OracleCaptioner

        return RowSource(OracleCaptioner(caption.oracle))
    if source == "file":
        from pipeline.captioners.file import FileCaptioner

        return RowSource(FileCaptioner(caption.file, manifest))
    if source == "llm":
        classes = sorted({row["label_text"] for row in manifest if row["label_text"]})
        return _llm(caption.llm, caption.seed, classes, workspace.root / "cache" / "llm")
    return None


def _llm(options: Llm, seed: int, classes: list[str], cache: Path) -> RowSource:
    from pipeline.captioners.llm import LlmCaptioner, ask_descriptions, read_descriptions

    if options.file:
        told = read_descriptions(Path(options.file), classes, options)
    elif options.local:
        from pipeline.captioners.local_llm import LocalModel

        options = options.model_copy(update={"concurrency": 1})  # one model, one random state
        told = ask_descriptions(LocalModel(options), classes, Path(options.cache or cache), options)
    else:
        from pipeline.captioners.endpoint import Endpoint

        told = ask_descriptions(Endpoint(options), classes, Path(options.cache or cache), options)
    notes = {"descriptions.json": told.texts, "rejected.json": told.rejected}
    content = {name: f"{json.dumps(value, indent=1, ensure_ascii=False)}\n".encode() for name, value in notes.items()}
    return RowSource(LlmCaptioner(told, options.per_video, seed), content)
