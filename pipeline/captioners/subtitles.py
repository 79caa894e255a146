"""Timed captions, WebVTT or SubRip, a file a video: a caption a cue, at the middle of the time it is shown."""

from __future__ import annotations

import html
import re
from pathlib import Path

from pipeline.captioners import TimedText
from pipeline.captioners.caption_table import Listed
from schemas.errors import UserError

TIMED = (".vtt", ".srt")
CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d{1,3})?)"
ARROW = re.compile(rf"\s*{CLOCK}\s*-->\s*{CLOCK}")
MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")  # tags of WebVTT, and the overrides that SubRip files carry


def read_timed(path: Path) -> tuple[Listed, list[str]]:
    """The cues of one file, or of every one under a folder; each is named by its path without its extension.

    The second value lists the files that cannot be used. Raises UserError when there are none at all.
    """
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.suffix.lower() in TIMED)
    if not files:
        raise UserError(f"caption.file.path: {path} holds no {' and no '.join(TIMED)}")
    root = path.parent if path.is_file() else path
    listed: Listed = {}
    problems: list[str] = []
    for file in files:
        name = file.relative_to(root).as_posix()[: -len(file.suffix)]
        try:
            texts = cues(file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{file.name}: {error}")
            continue
        if texts:
            listed.setdefault(name, []).extend(texts)
        else:
            problems.append(f"{file.name}: no cue")
    return listed, problems


def cues(content: str) -> list[TimedText]:
    """The cues of a file in the order of time. A line that the cue before showed too is not said again."""
    found: list[tuple[float, list[str]]] = []
    for block in re.split(r"\n\s*\n", content.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.split("\n")
        place = next((n for n, line in enumerate(lines[:3]) if ARROW.match(line)), None)
        if place is None:  # the header, a note, a style
            continue
        match = ARROW.match(lines[place])
        assert match is not None
        first, last = _seconds(match.groups()[:3]), _seconds(match.groups()[3:])
        texts = [" ".join(html.unescape(MARKUP.sub("", line)).split()) for line in lines[place + 1 :]]
        found.append(((first + last) / 2, [text for text in texts if text]))
    kept: list[TimedText] = []
    shown: list[str] = []
    for time, texts in sorted(found, key=lambda cue: cue[0]):
        fresh = [text for text in texts if text not in shown]
        shown = texts
        if fresh:
            kept.append(TimedText(" ".join(fresh), time=round(time, 3)))
    return kept


def _seconds(clock: tuple[str | None, ...]) -> float:
    hours, minutes, seconds = clock
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + float((seconds or "0").replace(",", "."))
