"""A source video, opened: its errors by name, its frames turned as displayed, and a limit on time.

PyAV, because decord cannot open AV1 and miscounts files whose first frames are to be discarded.
"""

from __future__ import annotations

import os
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

RGB = np.ndarray[Any, np.dtype[np.uint8]]  # [H, W, 3], as displayed
Item = TypeVar("Item")

TIME_LIMIT = 600.0  # seconds for one video; beyond it something hangs

_NOT_READ = {  # what people keep among videos, by its first bytes
    "a WebP picture": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "raw video in YUV4MPEG2": re.compile(rb"YUV4MPEG2"),
    "a PNG picture": re.compile(rb"\x89PNG"),
    "a JPEG picture": re.compile(rb"\xff\xd8\xff"),
    "a playlist, which names other files": re.compile(rb"#EXTM3U|ffconcat"),
    "a web page": re.compile(rb"\s*<(!doctype|html)", re.IGNORECASE),
    "a pointer of Git LFS": re.compile(rb"version https://"),
}

NEAR = 5e-4  # seconds: lists name times to the millisecond, so a frame so near to a bound is on it

# Containers only: libav would also read playlists, which name other files and addresses.
_FORMATS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,mxf,dv,ivf,rm,h264,hevc,m4v,gif"


FALL = 0.5  # seconds: timestamps that fall by less are careless, by more they start again
MATRICES = {8: "YCgCo", 10: "BT.2020 of constant luminance", 12: "derived from the primaries",
            13: "derived from the primaries, of constant luminance", 14: "ICtCp"}  # fmt: skip
_UNTIMED = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo"})


class VideoError(Exception):
    """One video cannot be used. The class is counted by name, the message says what was found."""


class NotAVideo(VideoError):
    pass


class NoVideoStream(VideoError):
    pass


class NoFrames(VideoError):
    pass


class TruncatedVideo(VideoError):
    pass


class CorruptVideo(VideoError):
    pass


class UnreadableFile(VideoError):
    pass


class VideoTimeout(VideoError, TimeoutError):
    pass


class NotConvertible(VideoError):
    """Frames that libav decodes and cannot turn into other colours."""

    def __init__(self, frame: av.VideoFrame, error: av.FFmpegError) -> None:
        matrix = MATRICES.get(int(frame.colorspace), f"number {int(frame.colorspace)}")
        super().__init__(
            f"frames of {frame.format.name} with the colour matrix {matrix} cannot be converted ({reason_of(error)}): "
            "convert the video to BT.709 first"
        )

    def __reduce__(self) -> tuple[Any, ...]:  # it goes from process to process, its frame does not
        return EncodingFailed, (str(self),)


class EncodingFailed(VideoError):
    pass


class Unforeseen(VideoError):
    """An exception that nobody thought of: it is about this video until the error budget says otherwise."""


class TooMuchMemory(VideoError):
    pass


def as_video_error(error: Exception) -> VideoError:
    """The error of one video; of any other exception, the last line of its traceback and where it was raised."""
    if isinstance(error, VideoError):
        return error
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    if isinstance(error, MemoryError):
        return TooMuchMemory(f"needs more memory than a worker may take: {line}")
    frames = traceback.extract_tb(error.__traceback__)
    return Unforeseen(f"{line} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else line)


class Deadline:
    """Looked at between frames: libav itself cannot be interrupted."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.end = seconds, time.monotonic() + seconds

    def check(self) -> None:
        if time.monotonic() > self.end:
            raise VideoTimeout(f"not read within {self.seconds:g} s")


@contextmanager
def opened(path: Path, threads: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        container = av.open(os.path.abspath(path), container_options=options, metadata_errors="replace")
    except OSError as error:
        raise UnreadableFile(f"cannot be read: {error.strerror or error}") from error
    except av.FFmpegError as error:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(16)
        other = next((name for name, sign in _NOT_READ.items() if sign.match(head)), None)
        if other is not None:
            raise NotAVideo(f"{other}, which is not read: convert it to a video, such as mp4") from error
        raise NotAVideo(f"no video that libav can open, or cut short ({size} bytes): {reason_of(error)}") from error
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            kinds = ", ".join(sorted({other.type for other in container.streams})) or "nothing"
            raise NoVideoStream(f"has no video stream, only {kinds}")
        if stream.codec_context is None:
            raise NotAVideo("libav has no decoder for its video stream")
        stream.codec_context.thread_count = threads
        yield container, stream


def guarded(items: Iterator[Item], what: str) -> Iterator[Item]:
    """Passes libav's items on, frames or packets as `what` says, and turns its errors into ours."""
    count = 0
    try:
        for item in items:
            yield item
            count += 1
    except av.error.EOFError:
        return
    except MemoryError as error:
        raise as_video_error(error) from error
    except OSError as error:
        raise UnreadableFile(f"cannot be read after {count} {what}: {error.strerror or error}") from error
    except av.FFmpegError as error:
        raise CorruptVideo(f"corrupt after {count} {what}: {reason_of(error)}") from error


class Orientation(NamedTuple):
    """How a frame is turned for display: columns and rows exchanged, then mirrored left to right, upside down."""

    transposed: bool = False
    flipped_x: bool = False
    flipped_y: bool = False

    @property
    def rotation(self) -> int:
        """Degrees counterclockwise, 0, 90, 180 or 270; of a mirrored frame without the mirror, 0 or 90."""
        turns = {Orientation(False, True, True): 180, Orientation(True, True, False): 270}
        return turns.get(self, 90 if self.transposed else 0)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """By the frame's display matrix, to the nearest quarter turn."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(float)  # x' = a x + c y, y' = b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, bool(a < 0), bool(d < 0))
    return Orientation(True, bool(c < 0), bool(b < 0))


def displayed_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height in pixels, as displayed."""
    return (frame.height, frame.width) if orientation_of(frame).transposed else (frame.width, frame.height)


def rgb(frame: av.VideoFrame) -> RGB:
    """The frame as displayed, uint8 [H, W, 3]."""
    try:
        pixels = frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise NotConvertible(frame, error) from error
    turn = orientation_of(frame)
    pixels = pixels.transpose(1, 0, 2) if turn.transposed else pixels
    pixels = pixels[:, ::-1] if turn.flipped_x else pixels
    return np.ascontiguousarray(pixels[::-1] if turn.flipped_y else pixels)


def timed(container: InputContainer) -> bool:
    """Whether its packets carry presentation times; libav's guesses for the others are wrong with B-frames."""
    return container.format.name not in _UNTIMED


class Timeline:
    """Times that go on where a stream's timestamps fall back, as they do where recordings were joined end to end."""

    def __init__(self, base: Fraction | None) -> None:
        self._fall = int(FALL / base) if base else 0
        self._last: int | None = None
        self._shift = self._step = 0
        self.falls = 0

    def at(self, stamp: int, order: int | None = None, step: int | None = None) -> int:
        """The stamp on the line; `order` is what never falls in a whole stream, a packet's dts or a frame's pts."""
        order = (stamp if order is None else order) + self._shift
        self._step = step or self._step
        if self._last is not None and order < self._last - self._fall:
            gone = self._last + max(self._step, 1) - order
            self._shift, order = self._shift + gone, order + gone
            self.falls += 1
        elif self._last is not None and not step and order > self._last:
            self._step = min(self._step or order - self._last, order - self._last)
        self._last = order if self._last is None else max(self._last, order)
        return stamp + self._shift


def average_rate(stream: VideoStream, frames: int, seconds: float) -> float:
    """Average frames per second: as declared, unless what was counted contradicts it by more than 5 %."""
    declared = float(stream.average_rate or stream.guessed_rate or 0)
    counted = frames / seconds if seconds and frames > 1 else 0.0
    if declared and (not counted or abs(declared - counted) <= 0.05 * counted):
        return declared
    return counted or 25.0  # a lone frame has no rate


def reason_of(error: av.FFmpegError) -> str:
    return error.strerror or str(error)
