"""Signed distances of the world's shapes.

A shape is given on its own unit: `distance(x, y)` is negative inside, `area` and `reach` (largest distance from the
centre to the outline) are in the same unit, so that any two shapes can be drawn with equal areas.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]
DARK = 0.35
"""Of its colour, the darker of the two tones that a shape's pattern is drawn in."""
PERIOD = 0.45
"""Of a pattern, as a share of the side of the square that has the shape's area."""


@dataclass(frozen=True)
class Shape:
    """distance: (x, y), float arrays of one form, x to the right and y downwards -> signed distance, same form.

    pattern: of PATTERNS, what is drawn inside.
    """

    distance: Distance
    area: float
    reach: float
    pattern: str = "bars"


def _polygon(vertices: np.ndarray) -> Shape:
    """vertices: float [E, 2], in order, around the origin."""
    start = vertices[:, None, None]  # [E, 1, 1, 2]
    edge = np.roll(vertices, -1, axis=0)[:, None, None] - start

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        px, py = x[None] - start[..., 0], y[None] - start[..., 1]  # [E, h, w]
        ex, ey = edge[..., 0], edge[..., 1]
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.min((px - along * ex) ** 2 + (py - along * ey) ** 2, axis=0)
        # Even-odd rule: a point is inside when a ray to the right crosses the outline an odd number of times.
        spans = (py >= 0) != (py - ey >= 0)
        crosses = spans & ((ex * py - ey * px > 0) == (ey > 0))
        inside = np.logical_xor.reduce(crosses, axis=0)
        signed: np.ndarray = np.where(inside, -1.0, 1.0) * np.sqrt(nearest)
        return signed

    x, y = vertices[:, 0], vertices[:, 1]
    area = abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))) / 2
    return Shape(distance, area, float(np.hypot(x, y).max()))


def _circle() -> Shape:
    return Shape(lambda x, y: np.hypot(x, y) - 1.0, float(np.pi), 1.0)


def _square() -> Shape:
    return _polygon(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float))


def _triangle() -> Shape:
    angle = np.radians([-90, 30, 150])
    return _polygon(np.stack([np.cos(angle), np.sin(angle)], axis=1))


def _star() -> Shape:
    angle = np.radians(-90 + 36 * np.arange(10))
    radius = np.where(np.arange(10) % 2, 0.48, 1.0)
    return _polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1))


def _cross() -> Shape:
    arm = 0.34  # half the width of an arm, of which each is 1 long
    corners = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)]
    return _polygon(np.array(corners + [(-x, -y) for x, y in corners], float))


def _heart() -> Shape:
    """A square on its corner and a half disc on each of its two upper sides."""
    centre, radius = 0.5, np.sqrt(0.5)
    drop = 0.15  # puts the centre of mass near the origin
    square = _polygon(np.array([[0, -1], [1, 0], [0, 1], [-1, 0]], float))

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        y = y - drop
        lobes: np.ndarray = np.hypot(np.abs(x) - centre, y + centre) - radius
        return np.minimum(square.distance(x, y), lobes)

    return Shape(distance, 2 + float(np.pi) / 2, 1.0 + drop)


PATTERNS: dict[str, Pattern] = {
    "rings": lambda x, y: np.sin(np.hypot(x, y)),
    "checks": lambda x, y: 2 * np.sin(x) * np.sin(y),
    "bars": lambda x, y: np.sin(y),
    "spots": lambda x, y: 0.6 - np.cos(x) - np.cos(y),
    "posts": lambda x, y: np.sin(x),
    "diagonals": lambda x, y: np.sin((x + y) * np.sqrt(0.5)),
}
"""Positive where the colour is, negative where its darker tone; x and y in radians of the pattern's period."""

SHAPES: dict[str, Shape] = {
    "circle": replace(_circle(), pattern="rings"),
    "square": replace(_square(), pattern="checks"),
    "triangle": replace(_triangle(), pattern="bars"),
    "star": replace(_star(), pattern="spots"),
    "cross": replace(_cross(), pattern="posts"),
    "heart": replace(_heart(), pattern="diagonals"),
}


def paint(
    image: np.ndarray,
    ids: np.ndarray,
    shape: Shape,
    *,
    at: tuple[float, float],
    scale: float,
    tilt: float,
    colour: np.ndarray,
    number: int,
) -> None:
    """Draws one shape, antialiased, into image (float32 [H, W, 3], 0 to 255) and its number into ids (uint8 [H, W]).

    at: x and y of its centre in px, pixel centres at halves; scale: px per unit of the shape;
    tilt: radians, clockwise on screen;
    colour: float [3], lit by 12 % more at the top of the shape and 12 % less at its bottom.
    """
    (x, y), (height, width) = at, ids.shape
    reach = shape.reach * scale + 1.5
    top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 1)
    left, right = max(0, int(x - reach)), min(width, int(x + reach) + 1)
    if top >= bottom or left >= right:
        return
    dy, dx = np.mgrid[top:bottom, left:right] + 0.5
    dx, dy = dx - x, dy - y
    cos, sin = np.cos(tilt), np.sin(tilt)
    own = (cos * dx + sin * dy) / scale, (cos * dy - sin * dx) / scale
    distance = scale * shape.distance(*own)
    alpha = np.clip(0.5 - distance, 0, 1)[..., None]
    light = 1 - 0.12 * np.clip(dy / (shape.reach * scale), -1, 1)[..., None]
    wave = 2 * np.pi / (PERIOD * np.sqrt(shape.area))
    bright = 0.5 + scale / wave * PATTERNS[shape.pattern](wave * own[0], wave * own[1])  # an edge of about a pixel
    tone = DARK + (1 - DARK) * np.clip(bright, 0, 1)[..., None]
    region = image[top:bottom, left:right]
    region += (alpha * (light * tone * colour - region)).astype(np.float32)
    ids[top:bottom, left:right][distance < 0] = number
