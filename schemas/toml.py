"""An Experiment from a TOML file and --set overrides; every mistake is answered with the nearest known name."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from schemas.config import Experiment
from schemas.errors import UserError, hint, nearest

DEEPEST, LONGEST = 8, 100_000  # names in a key; characters of an override

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_experiment(path: Path | None, overrides: Sequence[str] = (), **defaults: Any) -> Experiment:
    """Reads `path` (None: all defaults), then applies overrides such as "mask.ratio=0.6", in order.

    A file may start from another, `base = "base.toml"`, relative to itself; its own keys win.
    Raises UserError for an unreadable file, an unknown key, or a value out of range.
    """
    values = {**defaults, **(_read(path, ()) if path else {})}
    kept = deepcopy(values)
    for override in overrides:
        _apply(values, override)
    if "\\u0000" in json.dumps(values, default=str):
        raise UserError("a value of the config holds a NUL character, which no path or name can have")
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        given = path is None or _is_valid(kept)
        raise UserError(_explain(error, "on the command line" if given else f"in {path}")) from error


def _is_valid(values: dict[str, Any]) -> bool:
    """Whether a file's own keys are: then a mistake is in what was set on the command line."""
    try:
        Experiment.model_validate({"workspace": "any", **values})
    except ValidationError:
        return False
    return True


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise UserError(f"{path}: `base` leads back to itself")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        there = {other.stem: other for other in path.parent.glob("*.toml")} if path.parent.is_dir() else {}
        near = [f" Did you mean {str(there[stem])!r}?" for stem in nearest(path.stem, there, cutoff=0.6)]
        raise UserError(f"cannot read the config {path}: {error.strerror}.{''.join(near)}".rstrip(".")) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: base = {base!r} is not the path of a TOML file")
    return _merged(_read(path.parent / base, (*above, path.resolve())), values)


def _merged(below: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _apply(values: dict[str, Any], override: str) -> None:
    """Sets one dotted key; the value is TOML where it parses as such (0.6, true, [1, 2]), else a string."""
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise UserError(f"--set {override!r} is not of the form section.key=value")
    if len(names) > DEEPEST or len(override) > LONGEST:
        raise UserError(f"--set {override[:60]!r}...: too long for a key and its value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text.strip()
    for name in names[:-1]:
        values[name] = dict(values.get(name, {})) if isinstance(values.get(name, {}), dict) else {}
        values = values[name]
    values[names[-1]] = value


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]]
        if problem["type"] == "extra_forbidden":
            lines.append(_unknown_key(place))
        elif problem["type"] == "model_type":
            keys = ", ".join(f"{place[-1]}.{name}" for name in list(_section_of(place).model_fields)[:3])
            lines.append(f"{'.'.join(place)} is a section, not a value: set its keys ({keys} ...)")
        elif problem["type"] == "value_error":
            lines.append(f"{'.'.join(place) + ': ' if place else ''}{problem['ctx']['error']}")
        else:
            allowed = re.findall("'([^']+)'", problem.get("ctx", {}).get("expected", ""))  # of a Literal
            near = hint(str(problem["input"]), allowed)
            lines.append(f"{'.'.join(place)} = {repr(problem['input'])[:200]}: {problem['msg']}.{near}".rstrip("."))
    return f"{source}: " + "; ".join(lines)


def _section_of(place: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = Experiment
    for name in place:
        model = model.model_fields[name].annotation  # type: ignore[assignment]
    return model


def _unknown_key(place: list[str]) -> str:
    known = list(_section_of(place[:-1]).model_fields)
    near = [".".join([*place[:-1], name]) for name in nearest(place[-1], known, cutoff=0.6)]
    # The right name in the wrong section is as frequent a mistake as a misspelt one.
    near = [key for key in all_keys() if key.rpartition(".")[2] == place[-1]][:1] or near
    meant = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"unknown key {'.'.join(place)[:200]!r}, {meant}"


def all_keys(model: type[BaseModel] = Experiment, prefix: str = "") -> list[str]:
    """Every key of the config, dotted."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += all_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def dump(experiment: Experiment) -> str:
    """The whole config as TOML, defaults included, to keep next to what it made."""
    return tomli_w.dumps(experiment.model_dump(mode="json"))
