"""The demo's report: one HTML page with pictures beside it. Every text in it is untrusted and escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.atomic import write_bytes

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


def write_report(
    path: Path, *, title: str, lines: Sequence[Line], pictures: Sequence[Picture], notes: Sequence[str]
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
        f"<table><tr><th></th><th>this run</th><th>compared with</th></tr>{rows}</table>{figures}</html>\n"
    )
    write_bytes(path, page.encode())


def _text(value: Any) -> str:
    return html.escape(str(value))
