"""A class of one's own, named module:ClassName in the config: found, checked, known by its source.

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

from schemas.atomic import sha256_file
from schemas.config import Experiment
from schemas.errors import UserError, hint


@dataclass(frozen=True)
class Source:
    """The file of a module: what a worker elsewhere must find, too."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class OwnClass:
    key: str  # of the config that names it
    name: str  # module:ClassName
    method: str  # that it must have, with its parameters
    page: str  # of the docs

    @property
    def _given(self) -> str:
        return f"{self.key} = {self.name!r}"

    def source(self) -> Source:
        """Finds the module without running it (its packages are). Raises UserError when there is no such file."""
        module, _, name = self.name.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), name)):
            raise UserError(f"{self._given} is not module:ClassName, such as my_module:MyClass ({self.page})")
        _look_in(Path.cwd())
        importlib.invalidate_caches()
        try:
            spec = importlib.util.find_spec(module)
        except Exception as error:  # a package around it is code of the user's
            raise self._failed(error) from error
        if spec is None or spec.origin is None or not Path(spec.origin).is_file():
            raise UserError(
                f"{self._given}: there is no module {module} in {Path.cwd()}, on PYTHONPATH or among what is installed."
                + hint(module, [path.stem for path in Path.cwd().glob("*.py")])
            )
        path = Path(spec.origin).absolute()
        return Source(path, sha256_file(path))

    def load(self) -> type[Any]:
        """The class, checked as far as it can be without an instance. Raises UserError, saying what is wrong."""
        module, _, name = self.name.partition(":")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except Exception as error:
            raise self._failed(error) from error
        if not isinstance(found, type):
            classes = [each for each, value in vars(sys.modules[module]).items() if isinstance(value, type)]
            raise UserError(f"{self._given}: {module} has no class {name}.{hint(name, classes)}")
        if not callable(getattr(found, self.method.partition("(")[0], None)):
            raise UserError(f"{self._given}: {name} has no method {self.method} ({self.page})")
        return found

    def tools(self) -> list[str]:
        """Packages whose versions the class wants recorded."""
        return [str(name) for name in getattr(self.load(), "tools", ())]

    def identity(self, experiment: Experiment) -> dict[str, Any]:
        """The module's source, and what the class itself names as determining its results."""
        known = self.source()
        options: Any = {}
        if own := getattr(self.load(), "identity", None):
            try:
                options = json.loads(json.dumps(own(experiment), allow_nan=False))
            except UserError:
                raise
            except Exception as error:
                raise UserError(f"{self._given}: identity(experiment) failed: {_reason(error)}") from error
        return {"source": known.sha256, "identity": options}

    def make(self, known: Source, experiment: Experiment) -> Any:
        """An instance, in a worker that may run elsewhere. Raises UserError when the source there is another."""
        module, _, name = self.name.partition(":")
        depth = module.count(".") + (known.path.name == "__init__.py")
        _look_in(known.path.parents[depth])
        here = self.source()
        if here.sha256 != known.sha256:
            raise UserError(
                f"{here.path} differs from {known.path}, where the command runs: give all machines the same file"
            )
        try:
            return self.load()(experiment)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self._given}: {name}(experiment) failed: {_reason(error)}") from error

    def _failed(self, error: Exception) -> UserError:
        return UserError(f"{self._given} cannot be imported: {_reason(error)}")


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
