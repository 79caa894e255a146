"""Backgrounds: four textures in muted tones, each a function of position, so that none has edges of its own."""

from collections.abc import Callable

import numpy as np

TONES = np.array(
    [(122, 118, 112), (98, 104, 112), (134, 126, 108), (104, 112, 100), (120, 106, 106), (86, 90, 98), (148, 142, 134)],
    np.float32,
)
"""Muted tones, RGB 0 to 255: saturation at most a fifth, where the objects' colours have four fifths and more."""


def _stripes(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, unit: float) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), unit * rng.uniform(48, 80)
    phase = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period
    return np.clip(0.5 + 2 * np.sin(phase), 0, 1)


def _checks(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, unit: float) -> np.ndarray:
    period = unit * rng.uniform(80, 120)
    waves = np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period)
    return np.clip(0.5 + 5 * waves, 0, 1)


def _bricks(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, unit: float) -> np.ndarray:
    tall = unit * rng.uniform(36, 50)
    wide, joint = 2.2 * tall, 4 * unit
    row = np.floor(y / tall)
    x = x + (row % 2) * wide / 2
    column = np.floor(x / wide)
    from_joint = np.minimum(np.minimum(x % wide, wide - x % wide), np.minimum(y % tall, tall - y % tall))
    shade = 0.7 + 0.3 * np.modf(np.abs(np.sin(row * 12.9898 + column * 78.233)) * 43758.5453)[0]
    return shade * np.clip(0.5 + (from_joint - joint), 0, 1)


def _speckles(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, unit: float) -> np.ndarray:
    """Blurred noise over a slow gradient."""
    sigma = rng.uniform(8, 14) * unit
    frequency = np.hypot(np.fft.fftfreq(x.shape[0])[:, None], np.fft.fftfreq(x.shape[1])[None])
    noise = rng.standard_normal(x.shape)
    noise = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-2 * (np.pi * sigma * frequency) ** 2)).real
    angle = rng.uniform(0, 2 * np.pi)
    slope = (x * np.cos(angle) + y * np.sin(angle)) / max(x.shape)
    return np.clip(0.5 + 0.3 * noise / noise.std() + 0.3 * slope, 0, 1)


TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator, float], np.ndarray]] = {
    "striped": _stripes,
    "checked": _checks,
    "brick": _bricks,
    "speckled": _speckles,
}


def draw_texture(name: str, rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """float32 [height, width, 3], 0 to 255: two tones of one hue, mixed by the texture. unit: px at 128 px frames."""
    y, x = np.mgrid[:height, :width] + rng.uniform(0, 100, size=(2, 1, 1))
    mix = TEXTURES[name](x, y, rng, unit)[..., None]
    tone = TONES[rng.integers(len(TONES))]
    dark, bright = tone * rng.uniform(0.73, 0.83), tone * rng.uniform(1.1, 1.21)
    canvas: np.ndarray = dark + mix * (bright - dark)
    return canvas.astype(np.float32)


def shifted_view(canvas: np.ndarray, dy: float, dx: float, size: int) -> np.ndarray:
    """The size x size window of canvas ([H, W, 3]) at (dy, dx) px from its corner, bilinear; a new array."""
    row, column = int(dy), int(dx)
    v, u = dy - row, dx - column
    corner = canvas[row : row + size + 1, column : column + size + 1]
    rows = corner[:-1] * np.float32(1 - v) + corner[1:] * np.float32(v)
    view: np.ndarray = rows[:, :-1] * np.float32(1 - u) + rows[:, 1:] * np.float32(u)
    return view
