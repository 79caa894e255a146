"""The drawn world: what is drawn is what is recorded, and a single frame does not give the label away."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from pipeline.world.scene import ACTIONS, COLOURS, SHARE, Thing, _named_object, render, sample_scene
from pipeline.world.shapes import SHAPES, paint


def test_a_scene_is_a_function_of_seed_and_index():
    first, again = render(sample_scene(3, 11, frames=4)), render(sample_scene(3, 11, frames=4))
    other = render(sample_scene(4, 11, frames=4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("index", range(12))
def test_the_mask_is_where_the_named_object_shows(index):
    """Its own colour (lit by up to 12 %) everywhere inside the mask, and nowhere outside of it but on its edge."""
    scene = sample_scene(0, index, frames=6)
    frames, ids = render(scene)
    tint = scene.things[0].tint
    lit = np.clip(np.linspace(0.87, 1.13, 53)[:, None] * tint, 0, 255)  # [53, 3]
    for frame, mask in zip(frames, ids == 1, strict=True):
        alike = np.abs(frame[..., None, :] - lit).max(axis=-1).min(axis=-1) < 4
        inside = ~binary_dilation(~mask, iterations=2)
        outside = ~binary_dilation(mask, iterations=2)
        assert inside.sum() > 0.3 * mask.sum()
        assert alike[inside].all()
        assert not alike[outside].any()


def test_the_named_object_is_whole_and_of_the_stated_size():
    for index in range(64):
        scene = sample_scene(1, index, frames=3)
        named = scene.things[0]
        for t in range(3):
            reach = SHAPES[named.shape].reach * named.scale[t]
            assert min(named.x[t], named.y[t]) >= reach
            assert max(named.x[t], named.y[t]) <= scene.size - reach
        _, ids = render(scene)
        share = (ids == 1).mean(axis=(1, 2))
        assert share.max() < SHARE[1] * 1.05
        assert share.min() > SHARE[0] * 0.5  # things in front may hide a part


@pytest.mark.parametrize("name", SHAPES)
def test_the_area_of_a_shape_is_what_it_says(name):
    image, ids = np.zeros((160, 160, 3), np.float32), np.zeros((160, 160), np.uint8)
    paint(image, ids, SHAPES[name], x=80, y=80, scale=60, tilt=0.2, colour=np.full(3, 200.0), number=7)
    assert (ids == 7).sum() == pytest.approx(SHAPES[name].area * 60**2, rel=0.01)


def test_distractors_never_share_the_named_colour():
    for index in range(100):
        named, *others = sample_scene(2, index, frames=2).things
        assert 3 <= len(others) <= 5
        assert named.colour not in {thing.colour for thing in others}


def test_no_place_size_or_tilt_in_a_single_frame_tells_the_action():
    """A frame at a random moment has the same distribution of x, of y, of size and of tilt whatever action it is from
    (Kolmogorov and Smirnov's distance, at a thousandth). Only the places of circling are left out: they are close to
    the others', not equal."""
    videos = 500
    seen = {}
    for number, action in enumerate(ACTIONS):
        rng = np.random.default_rng(number)
        objects = [_object(10_000 * number + video, action) for video in range(videos)]
        moments = rng.integers(0, 32, videos)
        seen[action] = np.array([_place(thing, t) for thing, t in zip(objects, moments, strict=True)])
    limit = 1.95 * np.sqrt(2 / videos)
    for action in ACTIONS[1:]:
        for column in range(2 if action == "circling" else 0, 4):
            assert _distance(seen[ACTIONS[0]][:, column], seen[action][:, column]) < limit, (action, column)


def test_motion_tells_the_action():
    """The other side of the test above: what one frame hides, all of them show."""
    changes = {  # what varies over time
        "standing still": set(), "sliding sideways": {"x"}, "bouncing up and down": {"y"},
        "growing and shrinking": {"scale"}, "circling": {"x", "y"}, "shaking": {"x", "y"},
        "jumping around": {"x", "y"}, "rocking": {"tilt"},
    }  # fmt: skip
    steps = {action: [] for action in ACTIONS}
    for seed in range(50):
        for action, expected in changes.items():
            thing = _object(seed, action)
            moved = {name for name in ("x", "y", "scale", "tilt") if np.ptp(getattr(thing, name)) > 1e-6}
            assert moved == expected, action
            steps[action].append(np.hypot(np.diff(thing.x), np.diff(thing.y)))
    still_between = {
        action: np.mean(np.concatenate(steps[action]) == 0) for action in ("circling", "shaking", "jumping around")
    }
    assert still_between["circling"] == still_between["shaking"] == 0 and still_between["jumping around"] > 0.8
    path = {action: np.concatenate(steps[action]) for action in ("circling", "shaking")}
    assert path["circling"].std() / path["circling"].mean() < path["shaking"].std() / path["shaking"].mean()


def test_every_colour_is_drawn_apart_from_the_others():
    tones = np.array(list(COLOURS.values()), float)
    apart = np.linalg.norm(tones[:, None] - tones[None], axis=-1) + 1e9 * np.eye(len(tones))
    assert apart.min() > 90


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="even number"):
        sample_scene(0, 0, size=65)
    with pytest.raises(ValueError, match="at least 2"):
        sample_scene(0, 0, frames=1)


def _object(seed: int, action: str) -> Thing:
    return _named_object(np.random.default_rng(seed), action, 128, 32)


def _place(thing: Thing, t: int) -> tuple[float, float, float, float]:
    """x and y in units of the room that a thing of this shape has, the share of the frame that it takes, its tilt."""
    outline = SHAPES[thing.shape]
    low = outline.reach * 128 * np.sqrt(SHARE[1] / outline.area) + 1
    room = 128 - 2 * low
    return (
        (thing.x[t] - low) / room,
        (thing.y[t] - low) / room,
        outline.area * thing.scale[t] ** 2 / 128**2,
        thing.tilt[t],
    )


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(sample), at, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(below[0] - below[1]).max())
