"""Frames that are missing are counted, whatever the format; whole videos miss none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.media.decoding import decode, iter_frames, read_frames
from pipeline.media.encoding import Source, reencoded
from pipeline.media.missing_frames import Loss, Tally
from pipeline.media.probing import probe
from pipeline.media.video import TruncatedVideo, VideoError
from schemas.config import Shard
from tests.pipeline.conftest import picture, write_video
from tests.pipeline.media.test_decoding import numbers

Harm = Callable[[bytes], bytes]
FORMATS = {  # name: (codec, frames a second)
    "a.mkv": ("libx264", 12),
    "a.webm": ("libvpx-vp9", 12),
    "a.ts": ("libx264", 25),
    "a.mpg": ("mpeg1video", 25),
    "a.vob": ("mpeg2video", 25),
    "a.ogv": ("libvpx", 12),
    "a.asf": ("wmv2", 12),
    "a.avi": ("mpeg4", 12),
    "a.flv": ("flv", 12),
    "a.gif": ("gif", 10),
}


def noisy(number: int, width: int, height: int) -> np.ndarray:
    """Frames as large as those of real video."""
    small = np.random.default_rng(number).integers(0, 255, (height // 4, width // 4, 3), np.uint8)
    return small.repeat(4, 0).repeat(4, 1)


def video(path: Path, codec: str, fps: int, frames: int = 40) -> Path:
    pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
    return write_video(path, codec=codec, fps=fps, frames=frames, pix_fmt=pix_fmt, draw=noisy)


def clip_of(path: Path, **options: str) -> tuple[int, Loss]:
    facts = probe(path)
    clip, loss = reencoded(Source(path, None, None, facts.fps, Shard(preset="ultrafast", **options), 60.0))
    return clip.frames, loss


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_video_misses_nothing_and_a_cut_one_is_a_failure(tmp_path: Path, name: str) -> None:
    path = video(tmp_path / name, *FORMATS[name])
    frames, loss = clip_of(path)
    assert frames == 40 and loss.missing <= 1 and not loss.corrupt
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.85):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(VideoError):
            clip_of(path)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.ts", "a.flv", "a.asf"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[: len(data) // 2] + bytes(len(data) // 4) + data[3 * len(data) // 4 :],
        lambda data: data[: len(data) // 2] + data[3 * len(data) // 4 :],
        lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    ],
    ids=["hole", "removed", "end zeroed"],
)
def test_a_hole_is_a_failure(tmp_path: Path, name: str, harm: Harm) -> None:
    path = video(tmp_path / name, *FORMATS[name])
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(VideoError):
        clip_of(path)


def test_the_option_says_how_much_may_be_missing(tmp_path: Path) -> None:
    loss = Loss(frames=90, undecoded=4, holes=3, end=3, corrupt=0)
    loss.check("10%")
    loss.check("10")
    with pytest.raises(TruncatedVideo, match=r"only 90 of 100 frames: 4 cannot be decoded, 3 are holes .* '5%'"):
        loss.check("5%")
    Loss(9, 1, 0, 0, 0).check("0")  # one is never too many
    with pytest.raises(VideoError, match="calls 20 of 100 frames corrupt"):
        Loss(100, 0, 0, 0, 20).check("100%")


def test_a_segment_is_checked_too(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mkv", "libx264", 10, frames=60)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(TruncatedVideo, match="are missing at its end"):
        reencoded(Source(path, 1.0, 5.0, 10.0, Shard(preset="ultrafast"), 60.0))
    clip, loss = reencoded(Source(path, 0.5, 1.5, 10.0, Shard(preset="ultrafast"), 60.0))
    assert (clip.frames, loss.missing) == (10, 0)


def test_dropped_frames_of_a_variable_rate_are_no_damage(tmp_path: Path) -> None:
    """A screen that stands still, a camera that was paused."""
    stamps = sorted({*np.random.default_rng(0).integers(0, 300, 60).tolist(), 2000, 2001, 2002})
    path = write_stamped(tmp_path / "a.mkv", stamps)
    assert clip_of(path) == (len(stamps), Loss(len(stamps), 0, 0, 0, 0))


def test_a_frame_an_hour_is_a_video(tmp_path: Path) -> None:
    path = write_stamped(tmp_path / "a.mkv", [90_000 * number for number in range(8)])  # at 25 a second
    assert probe(path).fps < 1 / 2002
    assert clip_of(path) == (8, Loss(8, 0, 0, 0, 0))


def test_recordings_joined_end_to_end_go_on(tmp_path: Path) -> None:
    """Their timestamps start again: half the time, twice the rate, and the wrong frames."""
    parts = [
        write_video(tmp_path / f"{first}.ts", fps=10, frames=15, draw=lambda n, w, h, f=first: picture(n + f, w, h))
        for first in (0, 15)
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    facts = probe(path)
    assert (facts.frames, facts.fps, facts.duration) == (30, 10, pytest.approx(3, abs=0.15))
    assert numbers(list(iter_frames(path))) == list(range(30))
    assert numbers(read_frames(path, [5, 14, 15, 28])) == [5, 14, 15, 28]
    assert numbers(list(iter_frames(path, 2.0, 2.5))) == [20, 21, 22, 23, 24]
    tally = Tally()
    assert len(list(decode(path, tally=tally))) == 30 and tally.loss().missing == 0


def write_stamped(path: Path, stamps: list[int]) -> Path:
    """A video at 25 a second with frames at these ticks only."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"bf": "0", "g": "8"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for stamp in stamps:
            frame = av.VideoFrame.from_ndarray(noisy(stamp, 64, 48), format="rgb24")
            frame.pts = stamp
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
