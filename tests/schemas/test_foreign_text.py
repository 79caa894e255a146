"""Text of strangers: shown, not obeyed."""

from __future__ import annotations

import pytest

from schemas.foreign_text import is_utf8, parsed_json, shown, shown_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("a\0b\x7f\x9b31m", r"a\x00b\x7f\x9b31m"),
        ("\u202egnp.exe\u2066 \u200f", r"\u202egnp.exe\u2066 \u200f"),
        ("one\nerror: two\r\tthree\u2028four", "one error: two  three four"),
        ("half \ud83d", r"half \ud83d"),
        ("private \ue000 \U000e0041", r"private \ue000 \U000e0041"),
        ("Zoë 走路 می\u200cروم 👩\u200d👧 a\\b", "Zoë 走路 می\u200cروم 👩\u200d👧 a\\b"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, expected: str) -> None:
    assert shown(text) == expected
    shown(text).encode()


def test_lines_stay_lines() -> None:
    assert shown_lines("a\x07\nb\n") == "a\\x07\nb\n"


def test_json_nested_too_deep_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="too deep"):
        parsed_json("[" * 200_000)
    assert parsed_json(b"[1]") == [1]
    assert is_utf8("é") and not is_utf8("\ud800")
