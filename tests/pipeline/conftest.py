"""Videos drawn for the tests with PyAV, and the real clips where this machine has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # models as small as these are slower with more

REAL_CLIPS = "TGMAE_REAL_CLIPS"

Array = np.ndarray[Any, np.dtype[np.uint8]]


def picture(number: int, width: int, height: int) -> Array:
    """Frame `number` of the test video, uint8 [H, W, 3]: its mean brightness tells the number."""
    ramp = np.linspace(0, 40, width)[None, :] + np.linspace(0, 20, height)[:, None]
    grey = np.clip(ramp + 20 + 6 * number, 0, 255)
    return np.stack([grey, grey[::-1], grey], axis=2).astype(np.uint8)


def write_video(
    path: Path,
    *,
    frames: int = 24,
    size: tuple[int, int] = (64, 48),
    fps: int = 12,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    first_pts: int = 0,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    colour_range: int | None = None,
    draw: Callable[[int, int, int], Array] = picture,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", container_options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.options = options if options is not None else {"g": "8"}
        if colour_range is not None:
            stream.codec_context.color_range = colour_range
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(number, *size), format="rgb24")
            if colour_range is not None:
                frame = frame.reformat(format=pix_fmt, dst_color_range=colour_range)
            frame.pts = first_pts + number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """An mp4 with sound and nothing to see."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=16000, layout="mono")
        for number in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def cut(path: Path, target: Path, share: float = 0.5) -> Path:
    """The first part of a file, as a broken download leaves it."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


@pytest.fixture(scope="session")
def real_clips() -> Path:
    folder = os.environ.get(REAL_CLIPS)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"the real clips are not on this machine: {REAL_CLIPS} names no folder")
    return Path(folder)


@pytest.fixture
def video_folder(tmp_path: Path) -> Path:
    """Two classes of two videos, and files that are none."""
    root = tmp_path / "data"
    for number, name in enumerate(["run/a.mp4", "run/deep/b.mkv", "walk/c.avi", "walk/d.mp4"]):
        codec = "mpeg4" if name.endswith(".avi") else "libx264"
        write_video(root / name, frames=16 + 4 * number, codec=codec)
    (root / "walk" / "notes.txt").write_text("not a video")
    (root / ".hidden.mp4").write_text("hidden")
    return root
