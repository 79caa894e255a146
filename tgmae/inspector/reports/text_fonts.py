"""Fonts for captions in any script: matplotlib's own, then those of this machine that have what it lacks."""

from __future__ import annotations

import functools
import unicodedata

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

FIRST = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic, Arabic letters, and more


def fonts_for(text: str) -> tuple[list[str], str]:
    """Families that draw the text together, in matplotlib's order of fallback; and the characters that none has."""
    families, missing = [FIRST], _lacking(font_manager.findfont(FIRST), _drawn(text))
    for path in _installed() if missing else ():
        left = _lacking(path, missing)
        if left != missing:
            families.append(font_manager.FontProperties(fname=path).get_name())
            missing = left
        if not missing:
            break
    return families, "".join(sorted(missing))


def _drawn(text: str) -> frozenset[str]:
    return frozenset(c for c in text if not c.isspace() and unicodedata.category(c) not in ("Cf", "Mn"))


def _lacking(path: str, wanted: frozenset[str]) -> frozenset[str]:
    there = _charmap(path)
    return frozenset(c for c in wanted if ord(c) not in there)


@functools.lru_cache(64)
def _charmap(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # no font, whatever it is called
        return frozenset()


@functools.cache
def _installed() -> tuple[str, ...]:
    """Of this machine, the plain faces first."""
    found = sorted(entry.fname for entry in font_manager.fontManager.ttflist)
    return tuple(sorted(found, key=lambda path: ("egular" not in path, path)))
