"""Labels in words, as captions and prompts say them: UCF101 writes ApplyLipstick, HMDB51 brush_hair."""

from __future__ import annotations

import re


def in_words(label: str) -> str:
    """ "ApplyLipstick" -> "apply lipstick", "brush_hair" -> "brush hair", "TVShow2" -> "TV show 2".

    A label with blanks is in words already, and stays as it is.
    """
    if len(label.split()) > 1:
        return label
    words = "".join(f" {label[n]}" if _begins_word(label, n) else label[n] for n in range(len(label)))
    return " ".join(map(_lowered, words.replace("_", " ").split())) or label


def _lowered(word: str) -> str:
    return word.lower() if word[:1].isupper() and word[1:] == word[1:].lower() else word


def _begins_word(label: str, n: int) -> bool:
    before, here, after = label[n - 1 : n], label[n], label[n + 1 : n + 2]
    if here.isupper():
        return before.islower() or (before.isalnum() and after.islower())
    return here.isdigit() and before.islower()


def spoken(label: str) -> str:
    """A class as a prompt says it: "Pushing [something] off_of [something]" -> "pushing something off of something"."""
    return _prompted(in_words(label))


def _prompted(label: str) -> str:
    text = " ".join(re.sub(r"[\[\]_]", " ", label).split())
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def worded_anew(source: str, label: str) -> bool:
    """Whether that source says another thing of the label than tgmae 0.1 did, which left CamelCase as it is."""
    if source == "oracle":
        return in_words(label) != label
    return source == "llm" and spoken(label) != _prompted(label)


def joined(label: str) -> str:
    """For comparing classes that two lists write in ways of their own: TaiChi, tai_chi and "Tai chi" are one."""
    return spoken(label).replace(" ", "").casefold()
