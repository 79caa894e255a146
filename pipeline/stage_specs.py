"""What each stage of the pipeline would make of an experiment: its config, its inputs, its folder.

Light to import and quick to compute, so that `tgmae run` and `tgmae status` can compare without doing.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import replace
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any

from pipeline.captioners.label_words import worded_anew
from pipeline.captioners.own_captioner import own
from pipeline.guides.guide_identity import cached, features_identity, features_name, guide_identity, needs_captions
from pipeline.runtime.model_identity import captioner_identity, keyframes_identity
from pipeline.runtime.precision import on_gpu, precision_for
from schemas.atomic import sha256_file
from schemas.config import CROPS_AT_ONCE, FLOWS, FRAMES_AT_ONCE, PAIRS_AT_ONCE, Experiment, Shard, caption_source
from schemas.errors import MissingInput, UserError
from schemas.replacement import build_folder
from schemas.stage import TO_FIND, StageSpec, begun_record, present, read_record, required_record
from schemas.workspace import Workspace


def index_spec(experiment: Experiment) -> StageSpec:
    """Depends on the listing of the data folder: names, sizes and times of its files."""
    index = experiment.index
    if not index.data:
        raise UserError("index.data is not set: the folder that holds the videos")
    data = Path(index.data)
    if not data.is_dir():
        raise UserError(f"index.data: {data} is not a folder")
    inputs = {"files": listing_digest(data, follow=index.follow_links)}
    if index.format == "csv" and not index.list:
        raise UserError("index.format = 'csv' needs index.list: the path of the csv file")
    if index.list:
        if index.format not in ("csv", "epic55"):
            raise UserError(f"index.list is for the formats csv and epic55; {index.format!r} reads index.annotations")
        if not Path(index.list).is_file():
            raise UserError(f"index.list: {index.list} is not a file")
        inputs["list"] = sha256_file(Path(index.list))
    config: dict[str, Any] = {"format": index.format, **({"follow_links": True} if index.follow_links else {})}
    if index.annotations:
        if not Path(index.annotations).is_dir():
            raise UserError(f"index.annotations: {index.annotations} is not a folder")
        inputs["annotations"] = listing_digest(Path(index.annotations))
    if index.format in ("ucf101", "hmdb51"):
        config["split"] = index.split
    if index.format == "epic55" and not index.list:
        config["val_participants"] = list(index.val_participants)
    return StageSpec(
        stage="index",
        folder=Workspace(Path(experiment.workspace)).manifest,
        config=config,
        inputs=inputs,
        info={"data": str(data.resolve())},
    )


def caption_spec(experiment: Experiment) -> StageSpec:
    workspace = Workspace(Path(experiment.workspace))
    name, inputs = experiment.captions, {"manifest": _manifest(workspace)}
    if "+" in name:
        config: dict[str, Any] = {"source": name, "weights": list(experiment.caption.mix.weights)}
        inputs |= {f"captions/{part}": _part(workspace, part, inputs["manifest"]) for part in mixed(name)}
    else:
        source = caption_source(name)
        config = {"source": source, **_captioner(source, experiment)}
        if any(worded_anew(source, name) for name in _classes(workspace)):
            config["labels"] = "in words"  # sets of other labels are what they were before there was the rule
    cut = {"videos_per_shard": experiment.caption.videos_per_shard}
    spec = StageSpec("caption", workspace.captions(name), config, inputs, cut=cut)
    return _settled(spec, "dtype", getattr(experiment.caption, caption_source(name), None), FRAMES_AT_ONCE)


def _settled(spec: StageSpec, precision: str, options: Any = None, at_once: int = 0) -> StageSpec:
    """The spec with values for what `options` leave to the device: the precision that is "auto", and a batch size of 0,
    for which `at_once` is usual (0: there is none).

    What is finished or begun keeps its own, else it is what suits the device. So what was made on a GPU stays what it
    is for a command on another machine, and no stage is of two precisions. On a GPU the batch size is TO_FIND until the
    stage is begun. Where it does not determine the output it is in `info` alone.
    """
    device, values = getattr(options, "device", "auto"), dict[str, list[Any]]()
    records = [read_record(spec.folder), begun_record(build_folder(spec.folder))]
    sizes = {r.fingerprint: r.config.get("batch_size", r.info.get("batch_size")) for r in records if r is not None}
    if spec.config.get(precision) == "auto":
        suits = precision_for("auto", device)
        values[precision] = [suits, *{"bfloat16", "float32"}.difference({suits})]
    sized = bool(at_once) and hasattr(options, "batch_size")
    if sized and options.batch_size == 0:
        values["batch_size"] = [TO_FIND if on_gpu(device) else at_once, *filter(None, sizes.values())]
    chosen = [dict(zip(values, each, strict=True)) for each in product(*values.values())]
    inside = [{key: value for key, value in each.items() if key in spec.config} for each in chosen]
    specs = [replace(spec, config={**spec.config, **config}, chosen=each)
             for each, config in zip(chosen, inside, strict=True)]  # fmt: skip
    found = next((each for each in specs if each.fingerprint in sizes), specs[0])
    if not sized or "batch_size" in spec.config:
        return found
    size = options.batch_size or sizes.get(found.fingerprint, found.chosen["batch_size"])
    if size is None:  # not recorded: made before there was the choice
        return replace(found, chosen={key: value for key, value in found.chosen.items() if key != "batch_size"})
    if options.batch_size == 0:
        found = replace(found, chosen={**found.chosen, "batch_size": size})
    return found if size == TO_FIND else replace(found, info={**found.info, "batch_size": size})


def _captioner(source: str, experiment: Experiment) -> dict[str, Any]:
    if ":" not in source:
        return captioner_identity(source, experiment.caption)
    clean = {"clean": experiment.caption.clean.model_dump(mode="json")} if experiment.caption.clean.enabled else {}
    return {**clean, **keyframes_identity(experiment.caption), "class": own(source).identity(experiment)}


def _classes(workspace: Workspace) -> list[str]:
    path = present(workspace.manifest) / "classes.json"
    try:
        return [str(name) for name in json.loads(path.read_bytes())["classes"]] if path.is_file() else []
    except (ValueError, KeyError, TypeError) as error:
        raise MissingInput(f"{path} is damaged: run `tgmae index DATA --out {workspace.root}` first") from error


def mixed(name: str) -> list[str]:
    """The parts of a mix, in order. Raises UserError when one is there twice."""
    parts = name.split("+")
    twice = [part for part in parts if parts.count(part) > 1]
    if twice:
        raise UserError(f"captions = {name!r} has {twice[0]!r} twice: caption.mix.weights makes a part count more")
    return parts


def _part(workspace: Workspace, name: str, manifest: str) -> str:
    make = f"tgmae caption {workspace.root} --source {name}"
    record = required_record(workspace.captions(name), make)
    if record.inputs["manifest"] != manifest:
        raise MissingInput(f"{workspace.captions(name)} was made from another manifest: run `{make}` first")
    return record.output


LATER_SHARD_OPTIONS = ("max_lost_frames", "tune", "frame_step", "bframes")


def shard_spec(experiment: Experiment) -> StageSpec:
    workspace = Workspace(Path(experiment.workspace))
    # Clips made before there was an option are what they would be with its default.
    later = {name for name in LATER_SHARD_OPTIONS if getattr(experiment.shard, name) == getattr(Shard(), name)}
    config = experiment.shard.model_dump(mode="json", exclude=later)
    return StageSpec("shard", workspace.clips, config, {"manifest": _manifest(workspace)})


def features_spec(experiment: Experiment) -> StageSpec:
    workspace, text = Workspace(Path(experiment.workspace)), experiment.text
    inputs = {"clips": required_record(workspace.clips, f"tgmae shard {workspace.root}").output}
    spec = StageSpec("features", workspace.features(features_name(text)), features_identity(text), inputs)
    return _settled(spec, "precision", text, CROPS_AT_ONCE)


def guide_spec(experiment: Experiment) -> StageSpec:
    workspace = Workspace(Path(experiment.workspace))
    if experiment.guide_name is None:
        raise UserError("guide = 'none' stores nothing: there is no guide to build")
    inputs = {"clips": required_record(workspace.clips, f"tgmae shard {workspace.root}").output}
    info = {}
    if needs_captions(experiment.guide):
        source = experiment.captions
        inputs["captions"] = required_record(
            workspace.captions(source), f"tgmae caption {workspace.root} --source {source}"
        ).output
        info["captions"] = source
    if cached(experiment):
        features, redo = features_spec(experiment), f"tgmae features {workspace.root}"
        record = required_record(features.folder, redo)
        if reasons := features.differences(record):
            raise MissingInput(
                f"{features.folder} does not fit: {'; '.join(reasons)}. Run `{redo}` first, or `tgmae run`"
            )
        inputs["features"] = record.output
        info["features"] = features.folder.name
    spec = StageSpec("guide", workspace.guide(experiment.guide_name), guide_identity(experiment), inputs, info)
    if experiment.guide in FLOWS:
        return _settled(spec, "", experiment.flow, PAIRS_AT_ONCE if experiment.flow.engine == "raft" else 0)
    embeds = experiment.guide == "text" and not experiment.text.cache  # patches
    return _settled(spec, "precision", experiment.text, CROPS_AT_ONCE if embeds else 0)


def _manifest(workspace: Workspace) -> str:
    return required_record(workspace.manifest, f"tgmae index DATA --out {workspace.root}").output


def listing_digest(root: Path, *, follow: bool = False) -> str:
    """Of the names, sizes and times of all files. 200 000 of them are looked at with every plan: hence scandir."""
    digest, walked, folders = hashlib.sha256(), set[str](), [(str(root), "")]
    while folders:
        folder, prefix = folders.pop()
        if follow and (real := os.path.realpath(folder)) in walked:
            continue
        if follow:
            walked.add(real)
        subfolders, lines = [], []
        for entry in sorted(_entries(folder), key=attrgetter("name")):
            if _is_folder(entry):
                subfolders.append(entry)
            else:
                stat = entry.stat(follow_symlinks=follow and os.path.exists(entry.path))
                lines.append(f"{prefix}{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n")
        digest.update("".join(lines).encode("utf-8", "surrogateescape"))
        folders += [
            (each.path, f"{prefix}{each.name}/") for each in subfolders[::-1] if follow or not each.is_symlink()
        ]
    return digest.hexdigest()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that leads round in a circle is none."""
    with suppress(OSError):
        return entry.is_dir()
    return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """None of a folder that cannot be read: the index reports it."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
