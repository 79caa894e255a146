"""Models by name, looked for before a cluster is started: on this machine, else where they would be fetched from.

Libraries look for minutes, each worker for itself; here a name that leads nowhere is one sentence within seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.runtime.model_identity import LOCAL
from schemas.config import Blip2, Caption, Experiment, Flow, Text
from schemas.errors import UserError, choice_error
from schemas.foreign_text import shown

ANSWER_SECONDS = 5.0  # to wait for a server's headers
LIMIT_SECONDS = 10.0  # in all: looking a host's name up has no limit of its own
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
HUB = "hf-hub:"  # open_clip's prefix of a hub name


def check_captioner(source: str, caption: Caption) -> None:
    """Raises UserError when the model of that source is neither here nor can be fetched."""
    options = getattr(caption, source, None)
    if isinstance(options, Blip2):
        check_hub(f"caption.{source}.model", options.model, options.revision)
    elif source == "llm" and caption.llm.local and not caption.llm.file:
        check_hub("caption.llm.local", caption.llm.local, caption.llm.revision)


def check_guide(experiment: Experiment) -> None:
    """The same of the guide's model."""
    if experiment.guide in ("text", "embeddings"):
        check_clip(experiment.text)
    elif experiment.guide in ("optical-flow", "flow-magnitude") and experiment.flow.engine == "raft":
        _check_raft(experiment.flow)


def check_hub(key: str, name: str, revision: str = "main", advice: str = "") -> None:
    """Raises UserError when `name`, the value of `key`, is no folder, not in the cache, and cannot be fetched."""
    if Path(name).is_dir() or in_cache(name, revision):
        return
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    place = f"{key} = {name!r} is neither a folder nor in the cache of the hub, {constants.HF_HUB_CACHE}"
    advice = advice or f"--set {key}=FOLDER (as save_pretrained leaves it)"
    advice = (
        f"On a machine without a network, fetch it elsewhere and name it by {advice}, or copy it into that cache and "
        "set HF_HUB_OFFLINE=1"
    )
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{place}, and HF_HUB_OFFLINE forbids to fetch it. {advice}")

    def ask() -> None:
        url = hf_hub_url(name, "config.json", revision=revision, endpoint=constants.ENDPOINT)
        get_hf_file_metadata(url, timeout=ANSWER_SECONDS, endpoint=constants.ENDPOINT)

    try:
        _within(LIMIT_SECONDS, ask)
    except EntryNotFoundError:  # the model is there, that file is not
        return
    except HFValidationError as error:
        raise UserError(f"{place}, and no name of a model, such as someone/model") from error
    except HfHubHTTPError as error:
        raise UserError(
            f"{place}, and {constants.ENDPOINT} does not give it: {_reason(error)}. Is the name right, the revision "
            f"{revision!r} there, and the model open to you (hf auth login)? {advice}"
        ) from error
    except Exception as error:  # of many classes, by what is wrong with the network
        raise UserError(f"{place}, and {constants.ENDPOINT} cannot be reached ({_reason(error)}). {advice}") from error


def in_cache(name: str, revision: str) -> bool:
    """Whether the hub's cache holds weights of that name."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    mark = folder / "refs" / revision
    commit = mark.read_text().strip() if mark.is_file() else revision
    return any(next((folder / "snapshots" / commit).glob(pattern), None) for pattern in WEIGHTS)


def hub_options(name: str, revision: str) -> dict[str, Any]:
    """What from_pretrained() is given besides the name: of what is in the cache the hub is not asked, which without a
    network takes minutes."""
    return {} if Path(name).is_dir() else {"revision": revision, "local_files_only": in_cache(name, revision)}


def check_clip(text: Text) -> None:
    """The encoder of the text guide: open_clip's architectures and tags."""
    if text.model.startswith(LOCAL):
        if not Path(text.model.removeprefix(LOCAL)).is_dir():
            raise UserError(f"text.model = {text.model!r}: there is no such folder")
        return
    advice = "--set text.model=local-dir:FOLDER (of open_clip)"
    if text.model.startswith(HUB):
        check_hub("text.model", text.model.removeprefix(HUB), advice=advice)
        return
    import open_clip  # takes seconds
    from open_clip.pretrained import get_pretrained_cfg

    if text.model.replace("/", "-") not in open_clip.list_models():
        raise choice_error("text.model (or local-dir:FOLDER)", text.model, open_clip.list_models())
    if Path(text.pretrained).is_file():
        return
    found: dict[str, Any] = get_pretrained_cfg(text.model, text.pretrained)
    if not found:
        tags = open_clip.list_pretrained_tags_by_model(text.model)
        raise choice_error(f"text.pretrained of {text.model} (or the path of a file)", text.pretrained, tags)
    advice = f"{advice} or --set text.pretrained=FILE"
    if hub := found.get("hf_hub"):
        name = hub if hub.count("/") == 1 else hub.rpartition("/")[0]
        check_hub("text.pretrained", name, advice=advice)
    elif url := found.get("url"):
        _check_url("text.pretrained", url, Path("~/.cache/clip").expanduser(), advice)


def _check_raft(flow: Flow) -> None:
    if Path(flow.weights).is_file():
        return
    import torch
    from torchvision.models import get_model_weights

    known = get_model_weights(flow.model)
    if flow.weights not in known.__members__:
        raise choice_error("flow.weights (or the path of a file)", flow.weights, known.__members__)
    advice = "--set flow.weights=FILE, or take --set flow.engine=dis, which needs no weights"
    _check_url("flow.weights", known[flow.weights].url, Path(torch.hub.get_dir()) / "checkpoints", advice)


def _check_url(key: str, url: str, cache: Path, advice: str) -> None:
    name = urlsplit(url).path.rpartition("/")[2]
    if (cache / name).is_file():
        return
    import httpx

    def ask() -> None:
        httpx.head(url, timeout=ANSWER_SECONDS, follow_redirects=True).raise_for_status()

    try:
        _within(LIMIT_SECONDS, ask)
    except Exception as error:  # of many classes, by what is wrong with the network
        raise UserError(
            f"{key}: {name} is not in {cache}, and {urlsplit(url).hostname} cannot be reached ({_reason(error)}). On a "
            f"machine without a network, put the file there, or name it by {advice}"
        ) from error


def _within(seconds: float, ask: Callable[[], None]) -> None:
    """Raises what `ask` raises, or TimeoutError; then `ask` is left to itself."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            ask()
        except Exception as error:  # raised below, in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer for {seconds:g} s")
    if failed:
        raise failed[0]


def _reason(error: Exception) -> str:
    return shown(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
