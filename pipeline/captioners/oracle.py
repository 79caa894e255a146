"""The `oracle` source: the label as the caption, in words, an upper bound of what captions can tell (Table 6b)."""

from __future__ import annotations

import re

from pipeline.captioners import NoLabel, RowSource, TimedText
from pipeline.captioners.label_words import in_words
from pipeline.runtime.units import Row
from schemas.config import Experiment, Oracle
from schemas.errors import UserError

# SSv2 writes its labels as "Holding [something] next to [something]", or without the brackets.
PLACE = re.compile(r"\[[^\]]+\]|\bsomething\b", re.IGNORECASE)


def oracle_source(experiment: Experiment, manifest: list[Row]) -> RowSource:
    return RowSource(OracleCaptioner(experiment.caption.oracle))


class OracleCaptioner:
    """With `fill`, a label that has places to fill is said in the words of the video's own annotation, where the
    manifest has one (SSv2: "holding potato next to vicks vaporub bottle")."""

    def __init__(self, options: Oracle) -> None:
        if "{}" not in options.template:
            raise UserError(f"caption.oracle.template {options.template!r} has no {{}} for the label's text to go")
        self._template, self._fill = options.template, options.fill

    def describe(self, row: Row) -> list[TimedText]:
        """Raises NoLabel for a video without a label's text."""
        text = row["label_text"]
        if text is None or not text.strip():
            raise NoLabel("no caption: the manifest has no label text for this video")
        if self._fill and row["text"] and PLACE.search(text):
            return self._said(row["text"])
        return self._said(in_words(text))

    def _said(self, text: str) -> list[TimedText]:
        return [TimedText(self._template.replace("{}", text))]
