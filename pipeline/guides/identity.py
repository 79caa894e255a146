"""What determines a guide's output beside its inputs. Light: nothing is loaded but a class of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.guides import custom
from pipeline.identity import encoder_identity
from schemas.atomic import sha256_file
from schemas.config import GUIDES, SPEAKING, Experiment, Flow
from schemas.errors import choice_error


def needs_captions(guide: str) -> bool:
    """Whether a guide is made from captions. Raises UserError for a class of one's own that cannot be loaded."""
    return guide in SPEAKING or (guide not in GUIDES and custom.needs_captions(guide))


def guide_identity(experiment: Experiment) -> dict[str, Any]:
    """The config of the guide's stage: its own section, without what changes nothing (devices, batch sizes)."""
    guide, text = experiment.guide, experiment.text
    if guide == "text":
        return {"guide": guide, "patch": text.patch, "frame_stride": text.frame_stride, **encoder_identity(text)}
    if guide == "embeddings":
        return {"guide": guide, **encoder_identity(text)}
    if guide == "motion-vectors":
        return {"guide": guide, **experiment.motion.model_dump(mode="json")}
    if guide in ("optical-flow", "flow-magnitude"):
        camera = {"remove_camera": experiment.flow.remove_camera} if guide == "flow-magnitude" else {}
        return {"guide": guide, **_flow(experiment.flow), **camera}
    if ":" not in guide:
        raise choice_error("guide", guide, GUIDES)
    return custom.identity(experiment)


def _flow(flow: Flow) -> dict[str, Any]:
    common = {"engine": flow.engine, "patch": flow.patch, "frame_stride": flow.frame_stride}
    if flow.engine != "raft":
        return common
    path = Path(flow.weights)
    weights = {"weights": sha256_file(path)} if path.is_file() else {"pretrained": flow.weights}
    return {**common, "model": flow.model, "iterations": flow.iterations, **weights}
