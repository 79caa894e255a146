"""The `file` source: captions that exist already, of a table or of a folder of timed texts, joined by video."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pipeline.captioners import NoCaption, RowSource, TimedText
from pipeline.captioners.caption_table import Listed, read_listed
from pipeline.captioners.subtitles import TIMED, read_timed
from pipeline.runtime.units import Row
from schemas.config import CaptionFile, Experiment
from schemas.errors import UserError
from schemas.foreign_text import composed, shown

SHOWN = 3  # names in a message


class AmbiguousName(ValueError):
    """Captions that may be of several videos."""


def file_source(experiment: Experiment, manifest: list[Row]) -> RowSource:
    return RowSource(FileCaptioner(experiment.caption.file, manifest))


class FileCaptioner:
    """A name in the file is a video's id, else its path, else its file name, else its stem.

    A file name or stem that several files of the manifest share joins none of them: those videos fail. Segments of
    one file take its captions, the timed ones that fall within them.
    """

    def __init__(self, options: CaptionFile, manifest: Iterable[Row]) -> None:
        """Reads everything, and reports on stderr what is missing and what is left over. Raises UserError."""
        self._options = options
        self._source = Path(options.path).name
        listed, problems = _read(options)
        self._listed: Listed = defaultdict(list)
        for name, texts in listed.items():
            self._listed[composed(name)] += texts
        self._paths: dict[str, set[str]] = defaultdict(set)  # name or stem -> the files that have it
        rows = list(manifest)
        for row in rows:
            for name in _loose(row):
                self._paths[name].add(row["path"])
        self._report(rows, problems)

    def describe(self, row: Row) -> list[TimedText]:
        """Raises NoCaption or AmbiguousName."""
        name = self._name(row)
        if name is None:
            raise NoCaption(f"{self._source} has no caption for this video")
        texts = [_placed(each, row) for each in self._listed[name] if _within(each, row)]
        if not texts:
            raise NoCaption(f"{self._source} has no caption within this segment")
        wanted, count = self._options.per_video or len(texts), len(texts)
        return [texts[(2 * n + 1) * count // (2 * wanted)] for n in range(wanted)] if wanted < count else texts

    def _name(self, row: Row) -> str | None:
        """The name under which the captions of a video are listed."""
        exact = [name for name in map(composed, (row["video_id"], row["path"])) if name in self._listed]
        loose = [name for name in _loose(row) if name in self._listed]
        if exact:
            return exact[0]
        for name in loose:
            if len(self._paths[name]) > 1:
                raise AmbiguousName(
                    f"{self._source} names {name!r}, which is {' and '.join(sorted(self._paths[name])[:SHOWN])}: "
                    "name videos by their path under the data folder"
                )
            return name
        return None

    def _report(self, rows: list[Row], problems: list[str]) -> None:
        used: set[str] = set()
        missing = []
        for row in rows:
            try:
                name = self._name(row)
            except AmbiguousName:
                name = None
            if name is None:
                missing.append(row["video_id"])
            else:
                used.add(name)
        strange = [name for name in self._listed if name not in used]
        lines = [f"{len(rows) - len(missing)} of {len(rows)} videos have captions in {self._source}"]
        lines += [f"{len(missing)} have none ({_some(missing)})"] if missing else []
        lines += [f"{len(strange)} names in it are no video of the manifest ({_some(strange)})"] if strange else []
        lines += [f"{len(problems)} entries cannot be used ({_some(problems)})"] if problems else []
        print(shown(f"caption: {'; '.join(lines)}"), file=sys.stderr)


def _read(options: CaptionFile) -> tuple[Listed, list[str]]:
    if not options.path:
        raise UserError("captions = 'file' needs caption.file.path: a .csv, .jsonl or .parquet, or a folder of .vtt")
    path = Path(options.path)
    return read_timed(path) if path.is_dir() or path.suffix in TIMED else read_listed(path, options)


def _loose(row: Row) -> list[str]:
    path = PurePosixPath(row["path"])
    names = [path.as_posix()[: -len(path.suffix)] if path.suffix else path.as_posix(), path.name, path.stem]
    return [composed(name) for name in names]


def _within(text: TimedText, row: Row) -> bool:
    if text.time is None:
        return True
    return (row["start"] or 0.0) <= text.time and (row["end"] is None or text.time < row["end"])


def _placed(text: TimedText, row: Row) -> TimedText:
    if text.time is None:
        return text
    return text._replace(frame=round((text.time - (row["start"] or 0.0)) * row["fps"]))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
