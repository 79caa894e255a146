"""What comes from strangers, names, captions, answers, made safe: to print, to parse, to keep in a table."""

from __future__ import annotations

import json
import unicodedata
from typing import Any


def shown(text: object) -> str:
    r"""The text on one line, in characters that a terminal or a page shows and does not obey.

    Controls and escapes, lone surrogates, what changes the direction of text, private and unassigned characters are
    written as \xNN or \uNNNN, line ends and tabs are blanks; all else, in any script, stays as it is.
    """
    return "".join(_shown(c) for c in str(text))


def shown_lines(text: object) -> str:
    """The same line by line, for what is meant to have several: a table, a list of errors."""
    return "\n".join(map(shown, str(text).split("\n")))


def _shown(character: str) -> str:
    if " " <= character <= "~":
        return character
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f\x85":
        return " "
    if unicodedata.category(character)[0] == "C" and character not in _JOINERS:
        number = ord(character)
        return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
    return character


_JOINERS = "\u200c\u200d"  # shape letters of Persian and Hindi, and families of emoji


def composed(name: str) -> str:
    """For comparing names: é may be one character or two, as the system that wrote it likes."""
    return unicodedata.normalize("NFC", name)


def is_utf8(text: str) -> bool:
    """Whether a table can hold it: half of a surrogate pair, which JSON can say, is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parsed_json(content: str | bytes) -> Any:
    """Raises ValueError for anything that is not JSON, also for what is nested too deep to be read."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deep to be read") from None
