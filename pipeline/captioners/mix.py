"""A mix: a caption set made of other sets of the workspace, such as blip2+llm. It costs no model."""

from __future__ import annotations

from pathlib import Path

from pipeline.captioners import NoCaption, NoLabel, TimedText
from pipeline.runtime.units import Row
from schemas.errors import UserError
from schemas.tables import CAPTIONS, FAILURES, SKIPPED, read_table


class MixCaptioner:
    """The union of the parts' captions of a video, part by part, each `weight` times.

    The trainer draws one of a video's captions in each step, so a weight of 2 makes a part's captions twice as
    likely. A video needs a caption in one part only.
    """

    def __init__(self, parts: dict[str, Path], weights: tuple[int, ...]) -> None:
        """`parts`: the folder of each set. Raises UserError where the weights do not fit them."""
        if weights and len(weights) != len(parts):
            raise UserError(
                f"caption.mix.weights has {len(weights)} numbers, the mix {'+'.join(parts)} has {len(parts)} parts"
            )
        self._texts: dict[str, list[TimedText]] = {}
        self._reasons: dict[str, list[str]] = {}
        self._failed: set[str] = set()  # keys that some part has failed at, not left out
        for (name, folder), weight in zip(parts.items(), weights or [1] * len(parts), strict=True):
            for row in read_table(folder / "captions.parquet", CAPTIONS).to_pylist():
                text = TimedText(row["text"], row["frame"], row["time"])
                self._texts.setdefault(row["key"], []).extend([text] * weight)
            for row in read_table(folder / "failures.parquet", FAILURES).to_pylist():
                self._reasons.setdefault(row["key"], []).append(f"{name}: {row['message']}")
                self._failed |= set() if row["error"] in SKIPPED else {row["key"]}

    def describe(self, row: Row) -> list[TimedText]:
        """Raises NoCaption, with the reason of each part, for a video that is in none of them."""
        if row["key"] in self._texts:
            return self._texts[row["key"]]
        reasons = self._reasons.get(row["key"], [])
        kind = NoLabel if reasons and row["key"] not in self._failed else NoCaption
        raise kind("; ".join(reasons) or "no caption in any part of the mix")
