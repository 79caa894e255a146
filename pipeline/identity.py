"""Which model made a caption or a score: its name and revision, or the hash of its local files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from schemas.atomic import sha256_file
from schemas.config import Caption, Text

LOCAL = "local-dir:"  # open_clip's prefix of a model folder


def captioner_identity(source: str, caption: Caption) -> dict[str, Any]:
    """What determines a caption set beside the frames."""
    if source == "oracle":
        return caption.oracle.model_dump(mode="json")
    options = caption.blip2.model_dump(mode="json", exclude={"device"})
    return {**options, **weights(caption.blip2.model, caption.blip2.revision)}


def encoder_identity(text: Text) -> dict[str, Any]:
    """What determines the text guide's scores beside the clips and the captions."""
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
