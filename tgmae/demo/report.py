"""The demo's report: one HTML page with pictures next to it. Every text in it is untrusted and escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from schemas.atomic import write_bytes
from schemas.foreign_text import shown


@dataclass(frozen=True)
class Picture:
    file: str  # relative to the page
    caption: str


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


def write_report(
    path: Path,
    *,
    title: str,
    lines: Sequence[Line],
    pictures: Sequence[Picture],
    notes: Sequence[str],
    tables: Sequence[Table] = (),
) -> None:
    """Writes the page, whole or not at all. Files of pictures are relative to it."""
    pages = Environment(loader=PackageLoader("tgmae.demo", "."), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True, finalize=shown)  # fmt: skip
    page = pages.get_template("report.html.j2").render(
        title=title, lines=lines, pictures=pictures, notes=notes, tables=tables
    )
    write_bytes(path, page.encode())
