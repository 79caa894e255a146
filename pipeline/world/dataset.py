"""What the small models are trained and measured on: frames as the codec leaves them, and what is where in them.

The shipped world is not used for training: these videos come from seeds of their own, are encoded and decoded as
`write_world` would, and are kept in memory with the id map of every thing in them, not only of the named one.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.world.scene import COLOURS, MOST_OTHERS, Scene, render, sample_scene
from pipeline.world.shapes import SHAPES
from pipeline.world.textures import TEXTURES
from pipeline.world.write import decode_mp4, encode_mp4

TRAIN_SEED, HELD_OUT_SEED = 1_000_003, 1_000_033
"""Seeds of the videos to learn from and to measure on; `write_world` should be given others (0, by default)."""

COLOUR_NAMES, SHAPE_NAMES, BACKGROUND_NAMES = list(COLOURS), list(SHAPES), list(TEXTURES)
MOST_THINGS = 1 + MOST_OTHERS


@dataclass(frozen=True)
class Frames:
    """N frames of many videos.

    pixels uint8 [N, H, W, 3]; ids uint8 [N, H, W] (0 background, 1 the named object, 2.. others);
    colour, shape int64 [N, MOST_THINGS] of thing i, whose id is 1 + i (-1: no such thing); background int64 [N].
    """

    pixels: np.ndarray
    ids: np.ndarray
    colour: np.ndarray
    shape: np.ndarray
    background: np.ndarray
    captions: list[str]
    motions: list[str]


def draw_frames(seed: int, videos: int, *, per_video: int, length: int = 32, size: int = 128) -> Frames:
    """`per_video` frames, spread evenly over `length`, of each of `videos` videos; in order of video and time."""
    return _stack([_draw(seed, index, per_video=per_video, length=length, size=size) for index in range(videos)])


def batches(count: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless int64 [batch]: each epoch a fresh permutation of range(count), its remainder left out."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch + 1, batch):
            yield order[start : start + batch]


def _draw(seed: int, index: int, *, per_video: int, length: int, size: int) -> tuple[Scene, np.ndarray, np.ndarray]:
    scene = sample_scene(seed, index, size=size, frames=length)
    frames, ids = render(scene)
    buffer = io.BytesIO()
    encode_mp4(buffer, frames, fps=12)
    buffer.seek(0)
    keep = np.linspace(0, len(frames) - 1, per_video).round().astype(int)
    return scene, decode_mp4(buffer)[keep], ids[keep]


def _stack(drawn: list[tuple[Scene, np.ndarray, np.ndarray]]) -> Frames:
    per_video = len(drawn[0][1])
    colour = np.full((len(drawn), MOST_THINGS), -1)
    shape = colour.copy()
    for row, (scene, _, _) in enumerate(drawn):
        for column, thing in enumerate(scene.things):
            colour[row, column] = COLOUR_NAMES.index(thing.colour)
            shape[row, column] = SHAPE_NAMES.index(thing.shape)
    background = np.array([BACKGROUND_NAMES.index(scene.background) for scene, _, _ in drawn])
    return Frames(
        pixels=np.concatenate([pixels for _, pixels, _ in drawn]),
        ids=np.concatenate([ids for _, _, ids in drawn]),
        colour=colour.repeat(per_video, axis=0),
        shape=shape.repeat(per_video, axis=0),
        background=background.repeat(per_video),
        captions=[scene.caption for scene, _, _ in drawn for _ in range(per_video)],
        motions=[scene.motion for scene, _, _ in drawn for _ in range(per_video)],
    )
