"""A video of the world: what is in it, and how it moves.

One named object does one of eight actions over a textured, slowly drifting background, among small things of other
colours that move on their own. The action is the label, and only motion tells it:

- the actions are four pairs, and the second of a pair is the first played backwards, so the frames of the two are the
  same set of pictures;
- what an action leaves fixed (a coordinate, the size) is drawn as though the object were stopped at a random moment of
  the action that moves it, so that a frame of any straight or sizing action has the same distribution of place and
  size. Circling comes close to it, not quite to the letter: a circle visits its rim more often.

Shapes: T frames, H = W px; masks are bool [T, H, W].
"""

from dataclasses import dataclass

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

ACTIONS = (
    "moving right", "moving left", "moving down", "moving up",
    "growing", "shrinking", "circling clockwise", "circling counterclockwise",
)  # fmt: skip
"""The labels. Each odd one is the one before it played backwards."""

SHARE = (0.06, 0.14)
"""Smallest and largest share of the frame that the named object takes (before things pass in front of it)."""

TRAVEL = (0.6, 0.95)
"""Shortest and longest path of a moving object, as a share of the room it has inside the frame."""


@dataclass(frozen=True)
class Thing:
    """Something drawn: its look, and its centre (px) and scale (px per unit of its shape) in each frame, float [T]."""

    shape: str
    colour: str
    tilt: float  # radians
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

    action: str
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
            "action": self.action, "caption": self.caption, "colour": named.colour, "shape": named.shape,
            "background": self.background,
        }  # fmt: skip


def sample_scene(seed: int, index: int, *, size: int = 128, frames: int = 32) -> Scene:
    """Video `index` of the world `seed`: a function of these arguments alone. Actions take turns by index."""
    if size < 32 or size % 2:
        raise ValueError(f"size is {size} px; the world needs an even number of at least 32")
    if frames < 2:
        raise ValueError(f"frames is {frames}; an action needs at least 2")
    rng = np.random.default_rng([seed, index])
    action = ACTIONS[index % len(ACTIONS)]
    named = _named_object(rng, action, size, frames)
    others = [_distractor(rng, named.colour, size, frames) for _ in range(rng.integers(3, 6))]
    background = str(rng.choice(list(TEXTURES)))
    margin = 2 + int(np.ceil(0.1 * size))
    canvas = draw_texture(background, rng, size + margin, size + margin, size / 128)
    corners = rng.uniform(0, margin - 2, size=(2, 2))  # where the frame lies on the canvas at the start, at the end
    window = corners[0] + np.linspace(0, 1, frames)[:, None] * (corners[1] - corners[0])
    front = tuple(number for number in range(1, len(others) + 1) if rng.random() < 0.5)
    return Scene(action, background, (named, *others), front, canvas, window, size)


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
                image, ids[t], SHAPES[thing.shape], x=thing.x[t], y=thing.y[t], scale=thing.scale[t],
                tilt=thing.tilt, colour=thing.tint, number=1 + number,
            )  # fmt: skip
        frames[t] = np.clip(image + 0.5, 0, 255)
    return frames, ids


def _tint(rng: np.random.Generator, colour: str) -> np.ndarray:
    return np.clip(np.array(COLOURS[colour]) * rng.uniform(0.88, 1.1) + rng.uniform(-10, 10, 3), 0, 255)


def _straight(rng: np.random.Generator, low: float, high: float, time: np.ndarray) -> np.ndarray:
    """Position at `time` (0 to 1) of something that crosses part of [low, high] upwards at constant speed."""
    travel = rng.uniform(*TRAVEL) * (high - low)
    start = rng.uniform(low, high - travel)
    return start + travel * time


def _named_object(rng: np.random.Generator, action: str, size: int, frames: int) -> Thing:
    shape, colour = str(rng.choice(list(SHAPES))), str(rng.choice(list(COLOURS)))
    outline = SHAPES[shape]
    smallest, largest = (size * np.sqrt(share / outline.area) for share in SHARE)
    # The same bounds at every size, or a small object near the border would give away that it does not grow.
    low = outline.reach * largest + 1
    high = size - low
    time = np.linspace(0, 1, frames)
    stopped = np.full(frames, rng.random()), np.full(frames, rng.random()), np.full(frames, rng.random())
    pair, backwards = divmod(ACTIONS.index(action), 2)
    x = _straight(rng, low, high, time if pair == 0 else stopped[0])
    y = _straight(rng, low, high, time if pair == 1 else stopped[1])
    scale = smallest + (largest - smallest) * (time if pair == 2 else stopped[2])
    if pair == 3:
        radius = rng.uniform(*TRAVEL) * (high - low) / 2
        angle = 2 * np.pi * (time + rng.random())  # y points down, so a growing angle goes clockwise on screen
        x = rng.uniform(low + radius, high - radius) + radius * np.cos(angle)
        y = rng.uniform(low + radius, high - radius) + radius * np.sin(angle)
    if backwards:
        x, y, scale = x[::-1], y[::-1], scale[::-1]
    tilt = rng.uniform(-0.35, 0.35)
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
    tilt = rng.uniform(-np.pi, np.pi)
    return Thing(shape, colour, tilt, _tint(rng, colour), x, y, np.full(frames, scale))
