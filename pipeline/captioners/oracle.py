"""The `oracle` source: the label's text as the caption, an upper bound of what captions can tell (Table 6b)."""

from __future__ import annotations

from pipeline.units import Row
from schemas.config import Oracle
from schemas.errors import UserError


class NoLabel(ValueError):
    pass


class OracleCaptioner:
    def __init__(self, options: Oracle) -> None:
        if "{}" not in options.template:
            raise UserError(f"caption.oracle.template {options.template!r} has no {{}} for the label's text to go")
        self._template = options.template

    def describe(self, row: Row) -> list[str]:
        """Raises NoLabel for a video without a label's text."""
        text = row["label_text"]
        if text is None or not text.strip():
            raise NoLabel("no caption: the manifest has no label text for this video")
        return [self._template.replace("{}", text)]
