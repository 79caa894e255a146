"""What determines a guide's output apart from its inputs. Light: nothing is loaded but a class of the user's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline.guides import custom
from pipeline.runtime.model_identity import LOCAL, NO_EFFECT, encoder_identity
from schemas.atomic import sha256_file
from schemas.config import FLOWS, GUIDES, SPEAKING, Experiment, Flow, Text
from schemas.errors import choice_error
from schemas.registry import GUIDES as GUIDE_NAMES


def needs_captions(guide: str) -> bool:
    """Whether a guide is made from captions.

    Raises UserError for an unknown name, and for a class of one's own that cannot be loaded.
    """
    if guide not in GUIDES and ":" not in guide:
        raise choice_error("guide", guide, GUIDES)
    return guide in SPEAKING or (guide not in GUIDES and custom.needs_captions(guide))


def guide_identity(experiment: Experiment) -> dict[str, Any]:
    """The config of the guide's stage: its own section, without what changes nothing (devices, batch sizes)."""
    guide, text = experiment.guide, experiment.text
    if guide == "text":
        return {"guide": guide, **cells_identity(text)}
    if guide == "embeddings":
        return {"guide": guide, **encoder_identity(text)}
    if guide == "motion-vectors":
        return {"guide": guide, **experiment.motion.model_dump(mode="json")}
    if guide in FLOWS:
        camera = {"remove_camera": experiment.flow.remove_camera} if guide == "flow-magnitude" else {}
        return {"guide": guide, **_flow(experiment.flow), **camera}
    if ":" in guide:
        return custom.identity(experiment)
    options = getattr(experiment, GUIDE_NAMES.known(guide).replace("-", "_"), None)  # its section, where it has one
    return {"guide": guide, **(options.model_dump(mode="json", exclude=NO_EFFECT) if options is not None else {})}


def cells_identity(text: Text) -> dict[str, Any]:
    """What determines the embeddings of cells: settings that change nothing are left out."""
    identity = {"patch": text.patch, "frame_stride": text.frame_stride, **encoder_identity(text)}
    if text.pitch != text.patch:
        identity["grid_stride"] = text.pitch
    if text.method == "crops":
        return identity | ({"crop_size": text.crop_size} if text.crop_size else {})
    identity |= text.model_dump(mode="json", include={"method", "attention", "last_block"})
    return identity | ({"resolution": text.resolution} if text.resolution else {})


def features_identity(text: Text) -> dict[str, Any]:
    """The config of the features' stage."""
    return {**cells_identity(text), "kept": text.cache_kept, "bits": text.cache_bits}


def features_name(text: Text) -> str:
    """Folder under features/, such as ViT-B-32-quickgelu-openai-crops."""
    local = text.model.startswith(LOCAL)
    name = Path(text.model.removeprefix(LOCAL)).name if local else f"{text.model}-{Path(text.pretrained).stem}"
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{name}-{text.method}").lstrip("._+-")


def cached(experiment: Experiment) -> bool:
    """Whether the guide reads the patches' embeddings out of features/."""
    return experiment.guide == "text" and experiment.text.cache


def _flow(flow: Flow) -> dict[str, Any]:
    common = {"engine": flow.engine, "patch": flow.patch, "frame_stride": flow.frame_stride}
    if flow.engine != "raft":
        return common
    path = Path(flow.weights)
    weights = {"weights": sha256_file(path)} if path.is_file() else {"pretrained": flow.weights}
    return {**common, "model": flow.model, "iterations": flow.iterations, **weights}
