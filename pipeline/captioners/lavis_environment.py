"""Where LAVIS lives: an environment of its own, for it pins transformers below 4.27, timm 0.4.12 and numpy below 2.

Ray starts the actors that hold the model in it (its `runtime_env`): either Ray makes it, out of pinned versions, over a
copy of the environment that it runs in itself, or it is one that somebody made (`caption.lavis.python`). The work and
the files are those of any other captioner.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from schemas.config import Lavis
from schemas.errors import UserError

PINS = Path(__file__).with_name("lavis-requirements.txt")
PINNED_FOR = (3, 11)
KEPT = ("ray", "torch", "torchvision")  # of the environment that is copied
LIMIT = 3600  # seconds that making it may take

ASK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {"python": "%d.%d" % sys.version_info[:2]}
for name in ("ray", "salesforce-lavis", "tgmae"):
    try: found[name] = version(name)
    except PackageNotFoundError: found[name] = "not at all"
print(json.dumps(found))
"""


def lavis_environment(options: Lavis, *, cluster: bool = False) -> dict[str, Any]:
    """The `runtime_env` of actors that caption with LAVIS.

    cluster: the actors run elsewhere, where an interpreter cannot be looked at from here.
    Raises UserError when the environment cannot be made, or the interpreter is none that serves.
    """
    if options.python:
        if not cluster or Path(options.python).is_file():
            _check(options.python)
        return {"py_executable": options.python}
    if find_spec("lavis") is not None:  # docker/lavis.Dockerfile: everything runs in its environment
        return {}
    here = sys.version_info[:2]
    if here != PINNED_FOR:
        raise UserError(
            f"LAVIS' environment is pinned for Python {_dotted(PINNED_FOR)}, and this is {_dotted(here)}: make one by "
            "hand (docs/captions.md) and name its interpreter in caption.lavis.python"
        )
    return {
        "pip": {"packages": pins(), "pip_install_options": ["--no-deps", "--no-build-isolation"]},
        "config": {"setup_timeout_seconds": LIMIT},
    }


def pins() -> list[str]:
    """What is installed over the copy, such as "salesforce-lavis==1.0.2"."""
    lines = [line.strip() for line in PINS.read_text().splitlines()]
    return [line for line in lines if line and line[0] != "#" and re.split("[=<>]", line)[0] not in KEPT]


def _check(python: str) -> None:
    """Ray hangs where a worker's Python has no Ray, or another one: asked beforehand."""
    needs = f"caption.lavis.python = {python!r}"
    try:
        done = subprocess.run([python, "-c", ASK], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{needs} cannot be run: {error}. Give the interpreter of an environment with LAVIS") from error
    if done.returncode:
        raise UserError(f"{needs} is no Python of ours to use: {' '.join(done.stderr.split())[-300:]}")
    found = json.loads(done.stdout)
    (lavis,) = (pin.partition("==")[2] for pin in pins() if pin.startswith("salesforce-lavis=="))
    here = {"python": _dotted(sys.version_info[:2]), "ray": version("ray"), "tgmae": version("tgmae")}
    wanted = {**here, "salesforce-lavis": lavis}
    if wrong := [f"{name} {found[name]}, not {wanted[name]}" for name in wanted if found[name] != wanted[name]]:
        raise UserError(f"{needs} has {'; '.join(wrong)}: docs/captions.md says how to make that environment")


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
