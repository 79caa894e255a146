"""The report: one HTML file with everything in it, to send. Every text in it is untrusted and escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from schemas.atomic import write_bytes
from schemas.foreign_text import shown


@dataclass(frozen=True)
class Picture:
    image: bytes
    caption: str
    kind: Literal["png", "jpeg"] = "png"

    @property
    def data(self) -> str:
        return f"data:image/{self.kind};base64,{base64.b64encode(self.image).decode()}"


@dataclass(frozen=True)
class Bar:
    name: str
    value: float  # of 1
    text: str


@dataclass(frozen=True)
class Answer:
    """One of the questions of the first screen."""

    question: str
    answer: str  # in a word or a number
    detail: str
    bars: Sequence[Bar] = ()  # ours first
    picture: Picture | None = None


@dataclass(frozen=True)
class Line:
    """One row of the table of results: what was measured, ours, and what it is compared with."""

    what: str
    ours: str
    baseline: str


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Report:
    title: str
    notes: Sequence[str] = ()
    answers: Sequence[Answer] = ()
    lines: Sequence[Line] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = field(default=())


def write_report(path: Path, report: Report) -> None:
    """Writes the page, whole or not at all. It loads nothing, and its policy forbids it to."""
    pages = Environment(
        loader=PackageLoader("tgmae.inspector", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    write_bytes(path, pages.get_template("report.html").render(report=report).encode())
