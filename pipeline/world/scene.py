"""A video of the world: what is in it, and how it moves.

One named object moves in one of six ways over a textured, slowly drifting background, among at most two small things
of other colours that move on their own. A video has labels on two axes. *What is seen* is the shape of the named
object, with the pattern inside, which any frame shows and the caption says. *How it moves* no caption says, and no
frame shows: what a motion leaves fixed (a coordinate, the size) is drawn as though the object were stopped at a random
moment of the motion that changes it, and what swings does so at constant speed, so that a frame of any motion has the
same distribution of place and size. Circling comes close to it: a circle visits its rim more often.

Shapes: T frames, H = W px; masks are bool [T, H, W].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.world.shapes import SHAPES, paint
from pipeline.world.textures import TEXTURES, draw_texture, shifted_view

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (44, 160, 62),
    "blue": (36, 84, 214),
    "yellow": (238, 204, 40),
    "purple": (156, 48, 190),
    "cyan": (36, 194, 204),
}

MOTIONS = (
    "standing still", "sliding sideways", "bouncing up and down", "growing and shrinking", "circling", "jumping around",
)  # fmt: skip
"""How a named object moves: the second axis of labels. No caption says it, and no single frame shows it."""

SHARE = (0.12, 0.32)
"""Smallest and largest share of the frame that the named object takes (before things pass in front of it)."""

TRAVEL = (0.6, 0.95)
"""Shortest and longest path of a moving object, as a share of the room it has inside the frame."""

TILT = 0.35
"""Greatest tilt of a named object, radians to either side."""

SWINGS = (1.0, 2.0)
"""Least and greatest number of times that something swings to and fro in a video."""

WITHIN = 0.7
"""Share of an object's reach that stays inside the frame: a corner may leave it, the object may not."""

JUMPS = 6
"""Places that a jumping object visits."""

MOST_OTHERS = 2
"""Of the small things in a video that no caption names."""


@dataclass(frozen=True)
class Thing:
    """Something drawn: its look, and its tilt, centre (px) and scale (px per unit of its shape) in each frame."""

    shape: str
    colour: str
    tilt: np.ndarray  # float [T], radians
    tint: np.ndarray  # float [3]: its colour, RGB 0 to 255
    x: np.ndarray
    y: np.ndarray
    scale: np.ndarray

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """All that determines the pixels of one video. `things[0]` is the named object; `front` lie over it."""

    motion: str
    background: str
    things: tuple[Thing, ...]
    front: tuple[int, ...]
    canvas: np.ndarray  # float32 [H + margin, W + margin, 3]: the background, which the frame slides over
    window: np.ndarray  # float [T, 2]: the frame's corner (y, x) on the canvas
    size: int

    @property
    def caption(self) -> str:
        return self.things[0].caption

    def describe(self) -> dict[str, str]:
        named = self.things[0]
        return {
            "label": named.shape, "motion": self.motion, "caption": self.caption, "colour": named.colour,
            "background": self.background,
        }  # fmt: skip


def sample_scene(seed: int, index: int, *, size: int = 128, frames: int = 32) -> Scene:
    """Video `index` of the world `seed`: a function of these arguments. Shapes and motions take turns by index."""
    if size < 32 or size % 2:
        raise ValueError(f"size is {size} px; the world needs an even number of at least 32")
    if frames < 2:
        raise ValueError(f"frames is {frames}; a motion needs at least 2")
    rng = np.random.default_rng([seed, index])
    shape = list(SHAPES)[index % len(SHAPES)]
    motion = MOTIONS[index // len(SHAPES) % len(MOTIONS)]
    named = _named_object(rng, shape, motion, size, frames)
    others = [_distractor(rng, named.colour, size, frames) for _ in range(rng.integers(MOST_OTHERS + 1))]
    background = str(rng.choice(list(TEXTURES)))
    margin = 2 + int(np.ceil(0.1 * size))
    canvas = draw_texture(background, rng, size + margin, size + margin, size / 128)
    corners = rng.uniform(0, margin - 2, size=(2, 2))  # where the frame lies on the canvas at the start, at the end
    window = corners[0] + np.linspace(0, 1, frames)[:, None] * (corners[1] - corners[0])
    front = tuple(number for number in range(1, len(others) + 1) if rng.random() < 0.5)
    return Scene(motion, background, (named, *others), front, canvas, window, size)


def render(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """-> frames, uint8 RGB [T, H, W, 3]; ids, uint8 [T, H, W]: 0 is background, 1 + i is `things[i]`, where visible."""
    length, size = len(scene.window), scene.size
    behind = [number for number in range(1, len(scene.things)) if number not in scene.front]
    order = [*behind, 0, *scene.front]
    frames = np.empty((length, size, size, 3), np.uint8)
    ids = np.zeros((length, size, size), np.uint8)
    for t in range(length):
        dy, dx = scene.window[t]
        image = shifted_view(scene.canvas, dy, dx, size)
        for number in order:
            thing = scene.things[number]
            paint(
                image, ids[t], SHAPES[thing.shape], at=(thing.x[t], thing.y[t]), scale=thing.scale[t],
                tilt=float(thing.tilt[t]), colour=thing.tint, number=1 + number,
            )  # fmt: skip
        frames[t] = np.clip(image + 0.5, 0, 255)
    return frames, ids


def _tint(rng: np.random.Generator, colour: str) -> np.ndarray:
    return np.clip(np.array(COLOURS[colour]) * rng.uniform(0.88, 1.1) + rng.uniform(-10, 10, 3), 0, 255)


def _places(rng: np.random.Generator, low: float, high: float, time: Any) -> Any:
    """Positions at `time` (0 to 1) on a path that crosses part of [low, high]."""
    travel = rng.uniform(*TRAVEL) * (high - low)
    start = rng.uniform(low, high - travel)
    return start + travel * time


def _swing(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Time that runs to and fro between 0 and 1 at constant speed, float [T]."""
    turns = rng.random() + np.linspace(0, rng.uniform(*SWINGS), frames)
    return np.abs(2 * (turns % 1) - 1)


def _named_object(rng: np.random.Generator, shape: str, motion: str, size: int, frames: int) -> Thing:
    colour = str(rng.choice(list(COLOURS)))
    outline = SHAPES[shape]
    smallest, largest = (size * np.sqrt(share / outline.area) for share in SHARE)
    # The same bounds at every size, or a small object near the border would give away that it does not grow.
    low = WITHIN * outline.reach * largest
    high = size - low

    def moment(of: str) -> np.ndarray:
        return _swing(rng, frames) if motion == of else np.full(frames, rng.random())

    x = _places(rng, low, high, moment("sliding sideways"))
    y = _places(rng, low, high, moment("bouncing up and down"))
    scale = smallest + (largest - smallest) * moment("growing and shrinking")
    tilt = np.full(frames, rng.uniform(-TILT, TILT))
    if motion == "circling":
        radius = rng.uniform(*TRAVEL) * (high - low) / 2
        angle = 2 * np.pi * (np.linspace(0, 1, frames) * rng.choice([-1, 1]) + rng.random())
        x = rng.uniform(low + radius, high - radius) + radius * np.cos(angle)
        y = rng.uniform(low + radius, high - radius) + radius * np.sin(angle)
    elif motion == "jumping around":
        place = np.arange(frames) * JUMPS // frames
        x = np.array([_places(rng, low, high, rng.random()) for _ in range(JUMPS)])[place]
        y = np.array([_places(rng, low, high, rng.random()) for _ in range(JUMPS)])[place]
    return Thing(shape, colour, tilt, _tint(rng, colour), x, y, scale)


def _distractor(rng: np.random.Generator, named_colour: str, size: int, frames: int) -> Thing:
    """A small thing of another colour that drifts in a straight line and bounces off the frame's border."""
    shape = str(rng.choice(list(SHAPES)))
    colour = str(rng.choice([other for other in COLOURS if other != named_colour]))
    scale = size * np.sqrt(rng.uniform(0.003, 0.007) / SHAPES[shape].area)
    speed, angle = rng.uniform(0.003, 0.012) * size, rng.uniform(0, 2 * np.pi)
    low, high = 0.03 * size, 0.97 * size
    start = rng.uniform(low, high, size=2)
    path = start[:, None] + speed * np.array([[np.cos(angle)], [np.sin(angle)]]) * np.arange(frames)
    span = high - low
    x, y = low + span - np.abs((path - low) % (2 * span) - span)  # a triangle wave: the path folded at the border
    tilt = np.full(frames, rng.uniform(-np.pi, np.pi))
    return Thing(shape, colour, tilt, _tint(rng, colour), x, y, np.full(frames, scale))
