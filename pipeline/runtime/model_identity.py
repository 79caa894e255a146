"""Which model made a caption or a score: its name and revision, or the hash of its local files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from schemas.atomic import sha256_file
from schemas.config import CAPTION_SOURCES, Blip2, Caption, CaptionFile, Lavis, Llm, Text
from schemas.errors import UserError, choice_error
from schemas.registry import FRAME_CAPTIONERS

NO_EFFECT = {"device", "batch_size"}  # on what is made, of a section that nothing else is known of
LOCAL = "local-dir:"  # open_clip's prefix of a model folder


def captioner_identity(source: str, caption: Caption) -> dict[str, Any]:
    """What determines a caption set of `source` apart from the videos: settings that change nothing are left out."""
    if source not in CAPTION_SOURCES:
        raise choice_error("caption source", source, CAPTION_SOURCES)
    identity: dict[str, Any] = {"clean": caption.clean.model_dump(mode="json")} if caption.clean.enabled else {}
    if source == "file":
        return identity | _file(caption.file)
    if source == "llm":
        return identity | _llm(caption.llm, caption.seed)
    if source in FRAME_CAPTIONERS:
        identity |= keyframes_identity(caption)
    if source == "lavis":
        return identity | _lavis(caption.lavis)
    options = getattr(caption, source, None)  # its section of the config, where it has one
    if isinstance(options, Blip2):
        return identity | _generation(options, caption.seed)
    return identity | (options.model_dump(mode="json", exclude=NO_EFFECT) if options is not None else {})


def keyframes_identity(caption: Caption) -> dict[str, Any]:
    """Which frames a captioner is shown."""
    drawn = {"placing": "random", "seed": caption.seed} if caption.placing == "random" else {}
    return {"keyframes": caption.keyframes, **drawn}


def _lavis(options: Lavis) -> dict[str, Any]:
    settings = options.model_dump(mode="json", exclude={"models", "device", "python"})
    return settings | ({"models": _content(Path(options.models), "caption.lavis.models")} if options.models else {})


def _generation(options: Blip2, seed: int) -> dict[str, Any]:
    idle = {"device", *(() if options.sample else ("sample", "temperature", "top_p"))}
    idle |= set() if options.num_beams > 1 else {"length_penalty"}
    neutral = {"load_in_8bit": False, "min_new_tokens": 0, "repetition_penalty": 1.0}
    settings = options.model_dump(mode="json", exclude=idle)
    settings = {name: value for name, value in settings.items() if neutral.get(name, ...) != value}
    if options.sample:
        settings["seed"] = seed
    return {**settings, **weights(options.model, options.revision)}


def _file(options: CaptionFile) -> dict[str, Any]:
    columns = options.model_dump(mode="json", exclude={"path"})
    return {**columns, "content": _content(Path(options.path), "caption.file.path")}


def _llm(options: Llm, seed: int) -> dict[str, Any]:
    identity: dict[str, Any] = {"per_video": options.per_video, "seed": seed}
    if options.file:
        return {**identity, "max_words": options.max_words, "content": _content(Path(options.file), "caption.llm.file")}
    asked = ("prompts", "samples", "temperature", "max_tokens", "sentences", "max_words")
    identity |= options.model_dump(mode="json", include=set(asked))
    if options.local:
        return {**identity, "dtype": options.dtype, **weights(options.local, options.revision)}
    return {**identity, "model": options.model}


def _content(path: Path, key: str) -> str:
    """A digest of a file, or of all files under a folder."""
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir() or path == Path():
        raise UserError(f"{key}: {path} is neither a file nor a folder" if path != Path() else f"{key} is not set")
    return weights(str(path), "")["weights"]


def encoder_identity(text: Text) -> dict[str, Any]:
    """What determines the text guide's scores apart from the clips and the captions."""
    identity: dict[str, Any] = {"model": text.model, "precision": text.precision}
    if text.model.startswith(LOCAL):
        return {**identity, **weights(text.model.removeprefix(LOCAL), "")}
    if Path(text.pretrained).is_file():
        return {**identity, "weights": sha256_file(Path(text.pretrained))}
    return {**identity, "pretrained": text.pretrained}


def weights(name: str, revision: str) -> dict[str, str]:
    """{"model", "weights"} of a local folder (hash of its files) or {"model", "revision"} of a hub name.

    A folder is known by its content: it may move, and another model under its name is another model.
    """
    folder = Path(name)
    if not folder.is_dir():
        return {"model": name, "revision": revision}
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return {"model": folder.name, "weights": digest.hexdigest()}
