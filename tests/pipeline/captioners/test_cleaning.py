"""Mending captions: what each step cuts, what it leaves alone, and that twice is once."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.captioners.cleaning import cleaned, printable, unrepeated, without
from schemas.config import Clean

ALL = Clean(enabled=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a man a man a man a", "a man"),  # cut off in the middle of the loop
        ("a dog, a dog, a dog", "a dog,"),
        ("the the the the cat", "the cat"),
        ("a very very big cat", "a very very big cat"),  # said twice is said on purpose
        ("a man and a man and a woman", "a man and a man and a woman"),
        ("a man is holding a man is holding", "a man is holding"),  # four words twice are a loop
        ("it is A red A red A Red box", "it is A red box"),
        ("", ""),
    ],
)
def test_loops_are_said_once(before: str, after: str) -> None:
    assert unrepeated(before) == after


@given(st.lists(st.sampled_from("abcde"), min_size=1, unique=True), st.integers(3, 6), st.lists(st.sampled_from("cd")))
def test_a_loop_leaves_what_is_around_it(loop: list[str], times: int, around: list[str]) -> None:
    text = unrepeated(" ".join([*loop * times, "end"]))
    assert text.split() == [*loop, "end"]
    distinct = [f"{word}{number}" for number, word in enumerate(around)]
    assert unrepeated(" ".join(distinct)) == " ".join(distinct)


def test_boilerplate_is_cut_as_whole_words() -> None:
    assert without("Arafed man with an araffe, arafedly", ("arafed", "araffe")) == "man with an , arafedly"
    assert without("there is a cat (there is)", ("there is",)) == "a cat ( )"
    assert without("a cat", ()) == "a cat"


def test_unprintable_characters_are_cut() -> None:
    assert printable("a\x00 c\u200bat\ufffd \ue000on\ta mat") == "a cat on a mat"
    assert printable("ein Bär 熊 🐻") == "ein Bär 熊 🐻"


@pytest.mark.medium
@given(st.text() | st.lists(st.sampled_from(["a", "man", "arafed", "A", "man,", "\x00"])).map(" ".join))
@example("arafed a a arafed a")
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once, steps = cleaned(" ".join(text.split()), ALL)
    assert cleaned(once, ALL) == (once, [])
    assert bool(steps) == (once != " ".join(text.split()))
    assert not any(unicodedata.category(c)[0] == "C" for c in once)


def test_steps_can_be_chosen() -> None:
    text = "arafed\x00 cat cat cat"
    assert cleaned(text, ALL) == ("cat", ["unprintable", "boilerplate", "repeats"])
    assert cleaned(text, Clean(enabled=True, unprintable=False, boilerplate=())) == ("arafed\x00 cat", ["repeats"])
