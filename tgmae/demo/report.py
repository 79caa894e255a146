"""The demo's report: one HTML page with pictures beside it. Every text in it is untrusted and escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.atomic import write_bytes
from schemas.foreign import shown

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .25rem .9rem .25rem 0; text-align: left }
td.number { font-variant-numeric: tabular-nums } img { max-width: 100%; image-rendering: pixelated }
figure { margin: 1.5rem 0 } figcaption { color: #555 } code { background: #f3f3f3; padding: 0 .2rem }
"""


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
    rows = "".join(
        f"<tr><td>{_text(line.what)}</td><td class=number>{_text(line.ours)}</td>"
        f"<td class=number>{_text(line.baseline)}</td></tr>"
        for line in lines
    )
    figures = "".join(
        f'<figure><img src="{_text(picture.file)}" alt=""><figcaption>{_text(picture.caption)}</figcaption></figure>'
        for picture in pictures
    )
    paragraphs = "".join(f"<p>{_text(note)}</p>" for note in notes)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title><style>{STYLE}</style>'
        f"<h1>{_text(title)}</h1>{paragraphs}"
        f"<table><tr><th></th><th>this run</th><th>compared with</th></tr>{rows}</table>"
        f"{''.join(map(_table, tables))}{figures}</html>\n"
    )
    write_bytes(path, page.encode())


def _table(table: Table) -> str:
    header = "".join(f"<th>{_text(cell)}</th>" for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td class=number>{_text(cell)}</td>" for cell in row) + "</tr>"
                   for row in table.rows)  # fmt: skip
    return f"<h2>{_text(table.title)}</h2><table><tr>{header}</tr>{rows}</table>"


def _text(value: Any) -> str:
    return html.escape(shown(value))
