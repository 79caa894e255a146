#!/usr/bin/env python3
"""Writes docs/config.md from schemas/config/: every key with its type, its default and the comment next to it."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from schemas import config
from schemas.config import Experiment
from schemas.registry import Registry

PAGE = Path(__file__).with_name("config.md")
HEADER = """\
<!-- Written by docs/make_config_md.py from schemas/config/: change the comments there. -->
# The config

An experiment is one TOML file. Every key has a default but `workspace`; an unknown key is an error that names the
nearest known one. A file may start from another, `base = "base.toml"`, a path relative to itself; its own keys win.
On the command line `--set section.key=value` overrides a key and may be repeated; its value is TOML where it parses
as TOML (`0.6`, `true`, `[1, 2]`), else a string. Options such as `--captions` win over `--set`.

Trying `tgmae run experiment.toml --plan` shows which stages a change concerns.
"""
WORDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}
NAMES = {int: "integer", float: "number", str: "string", bool: "true or false"}


def page() -> str:
    comments: dict[tuple[str, str], str] = {}
    for file in sorted(Path(config.__file__).parent.glob("*.py")):
        comments |= _comments(file.read_text(encoding="utf-8"))
    return HEADER + "".join(_section(Experiment, "", comments))


def _section(model: type[BaseModel], prefix: str, comments: dict[tuple[str, str], str]) -> list[str]:
    """The markdown of a section and of those inside it."""
    plain = {name: field for name, field in model.model_fields.items() if not _is_section(field)}
    lines = [f"\n## {f'`[{prefix}]`' if prefix else 'The experiment'}\n"]
    if prefix and model.__doc__:
        lines.append(f"{model.__doc__.strip()}\n")
    if plain:
        lines.append("\n| key | type | default | |\n| --- | --- | --- | --- |\n")
    for name, field in plain.items():
        owner = next((each.__name__ for each in model.__mro__ if (each.__name__, name) in comments), "")
        comment = comments.get((owner, name), "").replace("|", "\\|")
        lines.append(f"| `{name}` | {_type(field.annotation, field.metadata)} | {_default(field)} | {comment} |\n")
    for name, field in model.model_fields.items():
        if _is_section(field):
            assert isinstance(field.annotation, type)
            lines += _section(field.annotation, f"{prefix}.{name}" if prefix else name, comments)
    return lines


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _type(annotation: Any, metadata: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], [*arguments[1:], *metadata])
    for item in metadata:
        if isinstance(named := getattr(getattr(item, "func", None), "__self__", None), Registry):
            return " or ".join(f"`{json.dumps(name)}`" for name in named)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(choice)}`" for choice in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type(each, []) for each in arguments if each is not type(None))
    if origin in (tuple, list):
        many = f"list of {_type(arguments[0], [])}s"
        return many if Ellipsis in arguments or origin is list else f"{many}, {len(arguments)} of them"
    bounds = [
        words.format(f"{bound:g}")
        for item in metadata
        for name, words in WORDS.items()
        if (bound := getattr(item, name, None)) is not None
    ]
    return " ".join([NAMES.get(annotation, str(annotation)), ", ".join(bounds)]).strip()


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    return f"`{json.dumps(field.default)}`"


def _comments(source: str) -> dict[tuple[str, str], str]:
    """(class, field) -> its comment: the lines of comment right above the field, then those in its own lines."""
    comments = {
        token.start[0]: (token.string.removeprefix("#").strip(), not token.line[: token.start[1]].strip())
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[tuple[str, str], str] = {}
    for owner in ast.parse(source).body:
        for field in owner.body if isinstance(owner, ast.ClassDef) else ():
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                first = field.lineno
                while comments.get(first - 1, ("", False))[1]:
                    first -= 1
                lines = range(first, (field.end_lineno or first) + 1)
                words = [comments[line][0] for line in lines if line in comments]
                found[owner.name, field.target.id] = " ".join(words)
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
