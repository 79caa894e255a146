"""A guide of one's own, module:ClassName (docs/custom_guides.md): found, checked, known by its source.

The module is looked for where Python looks, and last in the folder where the command runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.guides import Guide
from schemas.atomic import sha256_file
from schemas.config import Experiment
from schemas.errors import UserError


@dataclass(frozen=True)
class Source:
    """The file of a module: what a worker elsewhere must find, too."""

    guide: str  # module:ClassName
    path: Path
    sha256: str


def source(guide: str) -> Source:
    """Finds the module without running it (its packages are). Raises UserError when there is no such file."""
    module, _, name = guide.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise UserError(f"guide = {guide!r} is not module:ClassName, such as my_guides:CentrePrior")
    _look_in(Path.cwd())
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # a package around it is code of the user's
        raise _failed(guide, error) from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UserError(
            f"guide = {guide!r}: there is no module {module} in {Path.cwd()}, on PYTHONPATH or among what is installed"
        )
    path = Path(spec.origin).absolute()
    return Source(guide, path, sha256_file(path))


def load_class(guide: str) -> type[Any]:
    """The class, checked as far as it can be without an instance. Raises UserError, saying what is wrong with it."""
    module, _, name = guide.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise _failed(guide, error) from error
    if not isinstance(found, type):
        raise UserError(f"guide = {guide!r}: {module} has no class {name}")
    if not callable(getattr(found, "score", None)):
        raise UserError(f"guide = {guide!r}: {name} has no method score(chunks, captions) (docs/custom_guides.md)")
    needs = getattr(found, "needs_captions", False)
    if not isinstance(needs, bool):
        raise UserError(f"guide = {guide!r}: needs_captions is {needs!r}, neither True nor False")
    return found


def needs_captions(guide: str) -> bool:
    source(guide)
    return bool(getattr(load_class(guide), "needs_captions", False))


def tools(guide: str) -> list[str]:
    return [str(name) for name in getattr(load_class(guide), "tools", ())]


def identity(experiment: Experiment) -> dict[str, Any]:
    """What determines the scores: the module's source, what is scored, and what the class itself names."""
    known = source(experiment.guide)
    options: Any = {}
    if own := getattr(load_class(experiment.guide), "identity", None):
        try:
            options = json.loads(json.dumps(own(experiment), allow_nan=False))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"guide = {experiment.guide!r}: identity(experiment) failed: {_reason(error)}") from error
    text = {"patch": experiment.text.patch, "frame_stride": experiment.text.frame_stride}
    return {"guide": experiment.guide, "source": known.sha256, **text, "identity": options}


def make(known: Source, experiment: Experiment) -> Guide:
    """An instance, in a worker that may run elsewhere. Raises UserError when the source there is another."""
    module = known.guide.partition(":")[0]
    depth = module.count(".") + (known.path.name == "__init__.py")
    _look_in(known.path.parents[depth])
    here = source(known.guide)
    if here.sha256 != known.sha256:
        raise UserError(
            f"{here.path} differs from {known.path}, where the command runs: give all machines the same file"
        )
    try:
        guide: Guide = load_class(known.guide)(experiment)
    except UserError:
        raise
    except Exception as error:
        name = known.guide.partition(":")[2]
        raise UserError(f"guide = {known.guide!r}: {name}(experiment) failed: {_reason(error)}") from error
    return guide


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _failed(guide: str, error: Exception) -> UserError:
    return UserError(f"guide = {guide!r} cannot be imported: {_reason(error)}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
