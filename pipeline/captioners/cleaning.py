"""Mending captions, an option: what models say by habit and not of the picture. Mending twice changes nothing more."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from schemas.config import Clean

TWICE = 4  # words: a run of so many or more is a loop when said twice on end, a shorter one when said three times


def cleaned(text: str, options: Clean) -> tuple[str, list[str]]:
    """The text, and the names of the steps that changed it; the text may be empty."""
    steps: list[tuple[str, Callable[[str], str]]] = []
    if options.unprintable:
        steps.append(("unprintable", printable))
    if options.boilerplate:
        steps.append(("boilerplate", lambda value: without(value, options.boilerplate)))
    if options.repeats:
        steps.append(("repeats", unrepeated))
    done: list[str] = []
    before = None
    while before != text:  # a cut can bring together what was apart
        before = text
        for name, step in steps:
            after = step(text)
            if after != text and name not in done:
                done.append(name)
            text = after
    return text, done


def printable(text: str) -> str:
    """Without control, format, private and unassigned characters, and without what stands for lost ones."""
    kept = (c if unicodedata.category(c)[0] != "C" and c != "\ufffd" else " " if c.isspace() else "" for c in text)
    return " ".join("".join(kept).split())


def without(text: str, phrases: tuple[str, ...]) -> str:
    """Without those words or phrases, whole words only, upper or lower case."""
    listed = "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True) if phrase)
    return " ".join(re.sub(rf"(?<!\w)(?:{listed})(?!\w)", " ", text, flags=re.IGNORECASE).split()) if listed else text


def unrepeated(text: str) -> str:
    """Each loop of words said once: "a man a man a man a" becomes "a man". Case and punctuation count for nothing."""
    words = text.split()
    alike = [word.casefold().strip(".,;:!?") or word for word in words]
    at = 0
    while at < len(words):
        size = next((n for n in range(1, (len(words) - at) // 2 + 1) if _loops(alike, at, n)), 0)
        if not size:
            at += 1
            continue
        end = at + size
        while alike[end : end + size] == alike[at : at + size]:
            end += size
        if alike[end:] == alike[at : at + len(words) - end]:  # the loop was cut off in its middle
            end = len(words)
        del words[at + size : end], alike[at + size : end]
    return " ".join(words)


def _loops(words: list[str], at: int, size: int) -> bool:
    times = 2 if size >= TWICE else 3
    return words[at : at + size * times] == words[at : at + size] * times
