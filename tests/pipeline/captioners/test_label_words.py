"""Labels as their data sets write them, and as captions and prompts say them."""

from __future__ import annotations

import pytest

from pipeline.captioners.label_words import in_words, joined, spoken, worded_anew
from pipeline.captioners.oracle import OracleCaptioner
from schemas.config import Oracle
from tests.pipeline.test_caption import row


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("ApplyLipstick", "apply lipstick"),  # UCF101
        ("YoYo", "yo yo"),
        ("Archery", "archery"),
        ("brush_hair", "brush hair"),  # HMDB51
        ("Back_15som_05Twis_FREE", "back 15som 05 twis FREE"),  # Diving48
        ("playing_basketball", "playing basketball"),  # folders of Kinetics
        ("tai chi", "tai chi"),
        ("massaging person's head", "massaging person's head"),
        ("Holding [something] up", "Holding [something] up"),  # SSv2
        ("BMX riding", "BMX riding"),
        ("TVShow2", "TV show 2"),
        ("WriteALetter", "write a letter"),
        ("3DPrinting", "3D printing"),
        ("HMDB", "HMDB"),
        ("ÉcrireUneLettre", "écrire une lettre"),
        ("take out", "take out"),
        ("running", "running"),
        ("12", "12"),
        ("__", "__"),
        ("", ""),
    ],
)
def test_labels_in_words(label: str, words: str) -> None:
    assert in_words(label) == words
    assert in_words(words) == words or "_" in words


def test_the_oracle_says_labels_in_words() -> None:
    captioner = OracleCaptioner(Oracle(template="a video of {}"))
    assert captioner.describe(row("a.mp4", label_text="ApplyLipstick"))[0].text == "a video of apply lipstick"
    filled = row("a.mp4", label_text="Holding [something]", text="holding a RedCup")
    assert captioner.describe(filled)[0].text == "a video of holding a RedCup"


def test_classes_as_they_are_spoken() -> None:
    assert spoken("Pushing [something] off_of [something]") == "pushing something off of something"
    assert spoken("BMX riding") == "BMX riding"
    assert spoken("ApplyEyeMakeup") == "apply eye makeup"


def test_classes_are_joined_by_their_letters() -> None:
    assert joined("HandstandPushups") == joined("Handstand_PushUps") == joined("handstand pushups")


def test_which_sets_are_other_ones_than_before() -> None:
    """HMDB51's prompts had no underscores before, either."""
    assert worded_anew("oracle", "brush_hair") and not worded_anew("llm", "brush_hair")
    assert worded_anew("oracle", "YoYo") and worded_anew("llm", "YoYo")
    assert not worded_anew("blip2", "YoYo") and not worded_anew("oracle", "rocking")
