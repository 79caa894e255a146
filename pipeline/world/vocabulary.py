"""The language of the world: what is said of a picture, and the tokenizer that the two small models share.

A `Phrase` is a caption that knows what it claims, so that training can tell how far any picture bears it out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pipeline.world.scene import COLOURS, MOTIONS
from pipeline.world.shapes import SHAPES
from pipeline.world.textures import TEXTURES

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
IMAGE_TOKEN = "<image>"

# Words around the ones that name something. Other people's templates are made of them, so they are trained on too:
# a word that no training caption held would have a random embedding.
FRAMES = (
    "{}", "{}", "a photo of {}", "a video of {}", "a picture of {}", "an image of {}", "a close up of {}",
    "a close-up of {}", "there is {}", "this is {}", "a video frame showing {}", "a photo of {} .", "{} .",
    "a person is showing {}", "the video shows {}", "we see {} here", "a clip of {} in the scene",
    "an animation with {}",
)  # fmt: skip
INSIDE = {
    "circle": "rings inside", "square": "checks", "triangle": "bars across", "star": "dark spots",
    "cross": "bars upright", "heart": "diagonal stripes",
}  # fmt: skip
"""The pattern that each shape has inside, in words."""
ARTICLES = ("a", "a", "a", "the", "one", "a large", "a small", "a big", "a bright")


@dataclass(frozen=True)
class Phrase:
    """text, and what it claims: None where it claims nothing. `moves`: it says that the thing does something."""

    text: str
    colour: str | None = None
    shape: str | None = None
    background: str | None = None
    moves: bool = False


def phrases(rng: np.random.Generator) -> Iterator[Phrase]:
    """One phrase for each thing that can be said, in words drawn by rng: 36 + 6 + 6 + 6 + 4 of them."""
    for colour in COLOURS:
        for shape in SHAPES:
            said = f"{colour} {shape}" if rng.random() < 0.15 else f"{rng.choice(ARTICLES)} {colour} {shape}"
            moves, background = bool(rng.random() < 0.3), None
            if moves:
                said += f"{' is' if rng.random() < 0.3 else ''} {rng.choice(MOTIONS)}"
            if rng.random() < 0.15:
                background = str(rng.choice(list(TEXTURES)))
                said += f" on a {background} background"
            yield Phrase(_framed(rng, said), colour, shape, background, moves)
        said = str(rng.choice(["something {}", "a {} thing", "a {} object", "{}"])).format(colour)
        yield Phrase(_framed(rng, said), colour)
    for shape in SHAPES:
        said = f"{rng.choice(ARTICLES)} {shape}"
        if rng.random() < 0.4:
            said = f"{rng.choice([said, 'something', 'a thing', 'a shape'])} with {INSIDE[shape]}"
        yield Phrase(_framed(rng, said), shape=shape)
    for motion in MOTIONS:
        subject = str(rng.choice(["something {}", "an object {}", "a shape {}", "a thing that is {}", "{}"]))
        yield Phrase(_framed(rng, subject.format(motion)), moves=True)
    for background in TEXTURES:
        said = str(rng.choice(["a {} background", "the {} background", "a {} wall", "{} texture"])).format(background)
        yield Phrase(_framed(rng, said), background=background)


def _framed(rng: np.random.Generator, said: str) -> str:
    return str(rng.choice(FRAMES)).format(said)


def vocabulary() -> list[str]:
    """Special tokens, then every word of the world in alphabetical order."""
    worded = [*FRAMES, *ARTICLES, *INSIDE.values(), *MOTIONS, *COLOURS, *SHAPES, *TEXTURES]
    worded += [
        "something",
        "thing",
        "object",
        "an",
        "shape",
        "that",
        "is",
        "on",
        "with",
        "background",
        "wall",
        "texture",
    ]
    words = {word for text in worded for word in text.replace("{}", " ").replace("-", " - ").split()}
    return [*SPECIAL.values(), IMAGE_TOKEN, *sorted(words)]


def mumbled(rng: np.random.Generator, text: str, share: float) -> str:
    """The text with that share of its filling words made unknown ones, so that <unk> learns to mean nothing."""
    named = {word for name in (*COLOURS, *SHAPES, *TEXTURES, *MOTIONS) for word in name.split()}
    words = [word if word in named or rng.random() >= share else "hm" for word in text.split()]
    return " ".join(words)


def build_tokenizer(*, adds_eos: bool) -> PreTrainedTokenizerFast:
    """Lower-cased words and punctuation; what it does not know is <unk>.

    adds_eos: CLIP's text tower reads its embedding off </s>, so its tokenizer writes <s> words </s>, padded on the
    right. A language model continues from the end of the prompt, so BLIP-2's, like OPT's, writes <s> words, padded on
    the left.
    """
    words = {word: number for number, word in enumerate(vocabulary())}
    core = Tokenizer(models.WordLevel(words, unk_token=SPECIAL["unk_token"]))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bos, eos = SPECIAL["bos_token"], SPECIAL["eos_token"]
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}" if adds_eos else f"{bos} $A", special_tokens=[(bos, words[bos]), (eos, words[eos])]
    )
    # Not as a named token of the wrapper's: Blip2Processor takes an `image_token` it finds there for an AddedToken.
    core.add_special_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)])
    padding = "right" if adds_eos else "left"
    return PreTrainedTokenizerFast(tokenizer_object=core, **SPECIAL, padding_side=padding, model_max_length=64)


def save_tokenizer(folder: Path, *, adds_eos: bool) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    build_tokenizer(adds_eos=adds_eos).save_pretrained(folder)
