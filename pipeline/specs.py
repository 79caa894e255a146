"""What each stage of the pipeline would make of an experiment: its config, its inputs, its folder.

Light to import and quick to compute, so that `tgmae run` and `tgmae status` can compare without doing.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pipeline.identity import captioner_identity, encoder_identity
from schemas.atomic import sha256_file
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import StageSpec, required_record
from schemas.workspace import Workspace


def index_spec(experiment: Experiment) -> StageSpec:
    """Depends on the listing of the data folder: names, sizes and times of its files."""
    index = experiment.index
    if not index.data:
        raise UserError("index.data is not set: the folder that holds the videos")
    data = Path(index.data)
    if not data.is_dir():
        raise UserError(f"index.data: {data} is not a folder")
    inputs = {"files": _listing_digest(data)}
    if index.format == "csv":
        if not index.list:
            raise UserError("index.format = 'csv' needs index.list: the path of the csv file")
        if not Path(index.list).is_file():
            raise UserError(f"index.list: {index.list} is not a file")
        inputs["list"] = sha256_file(Path(index.list))
    return StageSpec(
        stage="index",
        folder=Workspace(Path(experiment.workspace)).manifest,
        config={"format": index.format},
        inputs=inputs,
        info={"data": str(data.resolve())},
    )


def caption_spec(experiment: Experiment) -> StageSpec:
    workspace = Workspace(Path(experiment.workspace))
    caption, source = experiment.caption, experiment.captions
    config = {"source": source, **captioner_identity(source, caption)}
    if source != "oracle":
        config["keyframes"] = caption.keyframes
    return StageSpec("caption", workspace.captions(source), config, {"manifest": _manifest(workspace)})


def shard_spec(experiment: Experiment) -> StageSpec:
    workspace = Workspace(Path(experiment.workspace))
    return StageSpec(
        "shard", workspace.clips, experiment.shard.model_dump(mode="json"), {"manifest": _manifest(workspace)}
    )


def guide_spec(experiment: Experiment) -> StageSpec:
    workspace = Workspace(Path(experiment.workspace))
    if experiment.guide_name is None:
        raise UserError("guide = 'none' stores nothing: there is no guide to build")
    text, source = experiment.text, experiment.captions
    return StageSpec(
        stage="guide",
        folder=workspace.guide(experiment.guide_name),
        config={"guide": "text", "patch": text.patch, "frame_stride": text.frame_stride, **encoder_identity(text)},
        inputs={
            "clips": required_record(workspace.clips, f"tgmae shard {workspace.root}").output,
            "captions": required_record(
                workspace.captions(source), f"tgmae caption {workspace.root} --source {source}"
            ).output,
        },
    )


def _manifest(workspace: Workspace) -> str:
    return required_record(workspace.manifest, f"tgmae index DATA --out {workspace.root}").output


def _listing_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            stat = os.stat(path, follow_symlinks=False)
            digest.update(
                f"{os.path.relpath(path, root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(
                    "utf-8", "surrogateescape"
                )
            )
    return digest.hexdigest()
