"""Reading: the right frames, the right way up, in the right colours; a reason for every file that cannot be read."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.media.decoding import decode, iter_frames, read_frames
from pipeline.media.encoding import encode
from pipeline.media.probing import probe
from pipeline.media.video import (
    CorruptVideo,
    NoFrames,
    NotAVideo,
    NoVideoStream,
    TruncatedVideo,
    UnreadableFile,
    VideoError,
    VideoTimeout,
)
from schemas.config import Shard
from tests.pipeline.conftest import cut, picture, write_sound, write_video

FORMATS = {  # name: (codec, options)
    "a.mp4": ("libx264", {"g": "8", "bf": "2"}),
    "a.mkv": ("libx264", {"g": "300"}),
    "a.mov": ("libx264", {"g": "4"}),
    "a.avi": ("mpeg4", {"g": "8"}),
    "b.avi": ("libx264", {"g": "8", "bf": "2"}),  # B-frames in a container without presentation times
    "a.ts": ("libx264", {"g": "8"}),
    "a.webm": ("libvpx", {"g": "8"}),
    "b.webm": ("libvpx-vp9", {"g": "8"}),
    "a.mpg": ("mpeg1video", {"g": "8"}),
}


def numbers(frames: list[np.ndarray]) -> list[int]:
    """Which frames of the test video these are, by their brightness."""
    if not frames:
        return []
    height, width = frames[0].shape[:2]
    base = picture(0, width, height).mean()
    return [round((frame.mean() - base) / 6) for frame in frames]


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_give_all_frames_and_any_frame(tmp_path: Path, name: str) -> None:
    codec, options = FORMATS[name]
    fps = 25 if name.endswith(".mpg") else 12
    path = write_video(tmp_path / name, codec=codec, options=options, fps=fps)
    facts = probe(path)
    assert (facts.frames, facts.width, facts.height, facts.rotation) == (24, 64, 48, 0)
    assert facts.fps == pytest.approx(fps, rel=0.01)
    assert facts.duration == pytest.approx(24 / fps, rel=0.06)
    assert facts.bytes == path.stat().st_size
    whole = list(iter_frames(path))
    assert numbers(whole) == list(range(24))
    some = read_frames(path, [23, 4, 12, 4])
    for got, number in zip(some, [23, 4, 12, 4], strict=True):
        np.testing.assert_array_equal(got, whole[number])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "b.avi", "a.ts"])
def test_a_segment_has_its_frames_and_only_them(tmp_path: Path, name: str) -> None:
    codec, options = FORMATS[name]
    path = write_video(tmp_path / name, codec=codec, options=options)
    whole = list(iter_frames(path))
    part = list(iter_frames(path, 0.75, 1.5))  # 12 frames a second: 9 to 17
    assert len(part) == 9
    np.testing.assert_array_equal(part, whole[9:18])
    np.testing.assert_array_equal(read_frames(path, [0, 8, 99], start=0.75, end=1.5), [whole[9], whole[17], whole[17]])
    assert len(list(iter_frames(path, None, 0.5))) == 6
    assert len(list(iter_frames(path, 1.5))) == 6
    with pytest.raises(NoFrames, match="between 9 s and 10 s"):
        read_frames(path, [0], start=9, end=10)


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mkv", first_pts=60)
    assert probe(path).duration == pytest.approx(2, rel=0.05)
    assert numbers(list(iter_frames(path, 0, 0.5))) == list(range(6))
    assert numbers(read_frames(path, [0, 23, 500])) == [0, 23, 23]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied_as_decord_does(tmp_path: Path, degrees: int) -> None:
    decord = pytest.importorskip("decord")
    path = write_video(tmp_path / "turned.mp4", size=(128, 64), rotation=degrees)
    facts = probe(path)
    assert (facts.width, facts.height) == ((64, 128) if degrees != 180 else (128, 64))
    expected = decord.VideoReader(str(path), num_threads=1)[3].asnumpy()
    (got,) = read_frames(path, [3])
    assert got.shape == expected.shape == (facts.height, facts.width, 3)
    assert np.abs(got.astype(int) - expected).mean() < 2
    assert facts.rotation == degrees % 360
    upright = list(iter_frames(write_video(tmp_path / "upright.mp4", size=(128, 64))))[3]
    assert np.abs(np.rot90(upright, degrees // 90).astype(int) - got).mean() < 2


MIRRORS = {  # a display matrix, and what it shows: x' = a x + c y, y' = b x + d y
    "hflip": ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
    "vflip": ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
    "transpose": ((0, 1, 1, 0), lambda pixels: pixels.transpose(1, 0, 2)),
    "transverse": ((0, -1, -1, 0), lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2)),
    "clock": ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, 3)),
}


@pytest.mark.parametrize("name", MIRRORS)
def test_mirrored_video_is_shown_mirrored(tmp_path: Path, name: str) -> None:
    matrix, shows = MIRRORS[name]
    path = write_video(tmp_path / "a.mp4", size=(128, 64), options={"g": "8", "crf": "5"})
    upright = list(iter_frames(path))
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 8 + 20 + 16  # of the matrix: a, b, u, c, d, v, x, y, w
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    facts, expected = probe(path), shows(upright[3])
    assert (facts.height, facts.width, 3) == expected.shape
    np.testing.assert_array_equal(read_frames(path, [3])[0], expected)
    clip = encode(decode(path), 12.0, Shard(crf=5))
    with av.open(io.BytesIO(clip.data)) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.abs(stored[3].astype(int) - expected).mean() < 2


def test_a_gif_is_a_video_and_other_pictures_are_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.gif", codec="gif", pix_fmt="rgb8", fps=10)
    assert (probe(path).frames, probe(path).fps) == (24, 10)
    assert len(list(iter_frames(path))) == 24
    others = {
        "a WebP picture": b"RIFF\x10\0\0\0WEBPVP8X",
        "raw video in YUV4MPEG2": b"YUV4MPEG2 W64 H48",
        "a web page": b"<!DOCTYPE html><html>",
        "a pointer of Git LFS": b"version https://git-lfs",
    }
    for said, head in others.items():
        (tmp_path / "x.mp4").write_bytes(head + bytes(100))
        with pytest.raises(NotAVideo, match=f"{said}, which is not read"):
            probe(tmp_path / "x.mp4")


def test_full_range_is_not_taken_for_limited(tmp_path: Path) -> None:
    def white(number: int, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), 255 if number % 2 else 0, np.uint8)

    path = write_video(tmp_path / "full.mp4", pix_fmt="yuvj420p", colour_range=2, draw=white)
    black, bright = read_frames(path, [0, 1])
    assert black.max() <= 3 and bright.min() >= 252


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p"])
def test_other_depths_and_odd_sizes(tmp_path: Path, pix_fmt: str) -> None:
    size = (63, 47) if pix_fmt == "yuv444p" else (64, 48)
    path = write_video(tmp_path / "a.mp4", pix_fmt=pix_fmt, size=size)
    assert numbers(read_frames(path, [0, 10, 23])) == [0, 10, 23]
    assert (probe(path).width, probe(path).height) == size


def test_files_that_are_no_video(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("this is no video\n" * 40)
    with pytest.raises(NotAVideo, match="no video that libav can open"):
        probe(text)
    with pytest.raises(NoVideoStream, match="only audio"):
        probe(write_sound(tmp_path / "sound.mp4"))
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(NotAVideo, match="0 bytes"):
        probe(tmp_path / "empty.mp4")
    with pytest.raises(UnreadableFile, match="No such file"):
        probe(tmp_path / "missing.mp4")


def test_a_playlist_named_mp4_opens_nothing(tmp_path: Path) -> None:
    """libav would read the file it names; the next could be an address."""
    write_video(tmp_path / "secret.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile 'secret.mp4'\n")
    with pytest.raises(NotAVideo):
        probe(tmp_path / "list.mp4")


def test_files_cut_short(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4")
    with pytest.raises(NotAVideo, match="or cut short"):  # its table of frames came last
        probe(cut(whole, tmp_path / "cut.mp4"))
    fast = write_video(tmp_path / "fast.mp4", container={"movflags": "faststart"})
    with pytest.raises(TruncatedVideo, match="cut short"):
        probe(cut(fast, tmp_path / "cut_fast.mp4", 0.8))
    with pytest.raises(VideoError):
        list(decode(tmp_path / "cut_fast.mp4"))


def test_corruption_in_the_middle_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def noise(number: int, width: int, height: int) -> np.ndarray:
        return rng.integers(0, 255, (height, width, 3), dtype=np.uint8)

    path = write_video(tmp_path / "a.mp4", draw=noise, container={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8000] = rng.bytes(8000)  # hits the lengths of units, which mp4 keeps in line
    path.write_bytes(data)
    with pytest.raises(CorruptVideo, match=r"corrupt after \d+ frames"):
        list(iter_frames(path))


def test_the_time_limit_is_kept(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    for read in (lambda: probe(path, time_limit=-1), lambda: read_frames(path, [3], time_limit=-1)):
        with pytest.raises(VideoTimeout, match="not read within"):
            read()
    with pytest.raises(TimeoutError):
        list(iter_frames(path, time_limit=-1))


def test_negative_index_and_no_index(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    assert read_frames(path, []) == []
    with pytest.raises(ValueError, match="negative"):
        read_frames(path, [0, -1])


@pytest.mark.medium
def test_real_clips_seek_as_they_decode(real_clips: Path) -> None:
    failed = {}
    for path in sorted((real_clips / "hard").iterdir()):
        facts = probe(path)
        try:
            whole = list(iter_frames(path))
        except VideoError as error:
            failed[path.name] = str(error)
            continue
        assert len(whole) == facts.frames, path.name
        assert whole[0].shape == (facts.height, facts.width, 3), path.name
        indices = [facts.frames // 6, facts.frames // 2, facts.frames * 5 // 6, facts.frames + 5]
        for index, got in zip(indices, read_frames(path, indices), strict=True):
            np.testing.assert_array_equal(got, whole[min(index, len(whole) - 1)], err_msg=path.name)
    assert list(failed) == ["dc_corrupted.mp4"]
    assert failed["dc_corrupted.mp4"].startswith("corrupt after 28 frames")
