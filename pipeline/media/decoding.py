"""Reading videos of any kind: all frames, a segment, or a few. What opens a source opens it here.

Times are seconds from the first frame shown. Pixels are taken as square, as decord and VideoMAE do.
Colours follow the file's matrix and range; HDR is not tone-mapped. Interlaced video is left as it is.
Every error of a video is a VideoError whose class is its reason in short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.media.missing_frames import Tally
from pipeline.media.video import (
    NEAR,
    RGB,
    TIME_LIMIT,
    CorruptVideo,
    Deadline,
    NoFrames,
    Timeline,
    average_rate,
    guarded,
    opened,
    rgb,
    timed,
)

_JOINED = frozenset({"mpegts", "mpeg", "ogg", "flv"})  # formats whose files can be joined end to end


def decode(
    path: Path,
    start: float | None = None,
    end: float | None = None,
    *,
    threads: int = 1,
    time_limit: float = TIME_LIMIT,
    tally: Tally | None = None,
) -> Iterator[av.VideoFrame]:
    """All frames with start <= time < end, in order, not yet rotated.

    `threads` of the decoder: 1 inside actors and thread pools, 0 lets libav choose. Seeks where that is
    exact, else decodes from the beginning. `tally` counts what is read and what is shown.
    Raises VideoError; CorruptVideo in the middle of the frames where the decoder gives up.
    """
    deadline = Deadline(time_limit)
    tally = tally or Tally()
    if start is not None and start > NEAR and not _starts_again(path, deadline):
        with opened(path, threads) as (container, stream):
            segment = _segment(container, stream, start, end, deadline, tally, seek=True)
            first = next(segment, None)
            if first is not None:
                yield first
                yield from segment
                return
    with opened(path, threads) as (container, stream):
        yield from _segment(container, stream, start, end, deadline, tally, seek=False)


def iter_frames(
    path: Path,
    start: float | None = None,
    end: float | None = None,
    *,
    threads: int = 1,
    time_limit: float = TIME_LIMIT,
) -> Iterator[RGB]:
    """decode(), as uint8 RGB [H, W, 3] after rotation."""
    for frame in decode(path, start, end, threads=threads, time_limit=time_limit):
        yield rgb(frame)


@dataclass(frozen=True)
class Placed:
    """A frame, and where it was found."""

    index: int  # within the file or segment, from 0
    time: float | None  # seconds from the first frame of the file; None where the stream has no timestamps
    pixels: RGB


def read_placed(
    path: Path,
    place: Callable[[int], Sequence[int]],
    *,
    expected: int,
    start: float | None = None,
    end: float | None = None,
    threads: int = 1,
    time_limit: float = TIME_LIMIT,
) -> list[Placed]:
    """The frames that `place` chooses, told how many there really are in the file or its segment [start, end).

    Files and lists lie about that: `expected` is only a guess, which saves a second pass where a stream cannot be
    seeked exactly. Raises VideoError.
    """
    deadline = Deadline(time_limit)
    with opened(path, threads) as (container, stream):
        found = _by_seeking(container, stream, place, start, end, deadline)
    if found is not None:
        return found
    counted = expected
    for _ in range(2):
        wanted = list(place(max(counted, 1)))
        kept: dict[int, RGB] = {}
        total = 0
        for frame in decode(path, start, end, threads=threads, time_limit=time_limit):
            if total in wanted:
                kept[total] = rgb(frame)
            total += 1
        if not total:
            raise NoFrames(_nothing(start, end))
        if total == counted:
            return [Placed(index, None, kept[index]) for index in wanted]
        counted = total
    raise CorruptVideo("gives another number of frames each time it is decoded")


def read_frames(
    path: Path,
    indices: Sequence[int],
    *,
    start: float | None = None,
    end: float | None = None,
    threads: int = 1,
    time_limit: float = TIME_LIMIT,
) -> list[RGB]:
    """Some frames, counted from 0 within the file or its segment [start, end), as RGB [H, W, 3] in the order asked.

    An index beyond the last real frame gives the last: counts and durations in files and lists lie.
    Seeks near each frame; where a stream cannot be seeked exactly, decodes it from the beginning.
    Raises VideoError; ValueError for a negative index.
    """
    if any(index < 0 for index in indices):
        raise ValueError(f"frame index {min(indices)} is negative")
    if not indices:
        return []
    placed = read_placed(
        path,
        lambda count: [min(index, count - 1) for index in indices],
        expected=max(indices) + 1,
        start=start,
        end=end,
        threads=threads,
        time_limit=time_limit,
    )
    return [frame.pixels for frame in placed]


def _segment(
    container: InputContainer,
    stream: VideoStream,
    start: float | None,
    end: float | None,
    deadline: Deadline,
    tally: Tally,
    *,
    seek: bool,
) -> Iterator[av.VideoFrame]:
    """Frames within the bounds. With `seek`, none at all where it cannot be sure to miss none."""
    base = stream.time_base
    tally.begin(container, stream)
    if seek:
        if base is None or stream.start_time is None or start is None or not timed(container):
            return
        try:
            container.seek(stream.start_time + int(start / base), stream=stream)
        except av.FFmpegError:
            return
    origin, landed, line = stream.start_time, False, Timeline(base)
    for count, frame in enumerate(guarded(_frames(container, stream, tally), "frames")):
        deadline.check()
        if frame.pts is None or base is None or not timed(container):
            if seek:
                return
            now = count / average_rate(stream, 1, 0.0)
        else:
            origin = frame.pts if origin is None else origin
            now = float((line.at(frame.pts) - origin) * base)
        if seek and not landed:
            if (start is not None and now > start + NEAR) or frame.is_corrupt:
                return
            landed = True
        if end is not None and now >= end - NEAR:
            return
        if start is None or now >= start - NEAR:
            tally.frame(frame)
            yield frame


def _frames(container: InputContainer, stream: VideoStream, tally: Tally) -> Iterator[av.VideoFrame]:
    for packet in container.demux():
        if packet.stream_index != stream.index:
            tally.beside(packet)
            continue
        tally.packet(packet)
        yield from (frame for frame in packet.decode() if isinstance(frame, av.VideoFrame))


def _starts_again(path: Path, deadline: Deadline) -> bool:
    """Whether its timestamps fall back somewhere, so that a moment may be sought in the wrong part."""
    with opened(path, 1) as (container, stream):
        if container.format.name not in _JOINED:
            return False
        line = Timeline(stream.time_base)
        for packet in guarded(container.demux(stream), "packets"):
            deadline.check()
            if packet.size and packet.dts is not None:
                line.at(packet.dts, None, packet.duration)
        return line.falls > 0


def _by_seeking(
    container: InputContainer,
    stream: VideoStream,
    place: Callable[[int], Sequence[int]],
    start: float | None,
    end: float | None,
    deadline: Deadline,
) -> list[Placed] | None:
    """The frames that `place` chooses of those counted, or None where this stream cannot be seeked exactly."""
    base = stream.time_base
    keys: list[tuple[int, int]] = []  # pts and dts of key packets
    shown: list[int] = []  # pts
    if base is None or not timed(container):
        return None
    for packet in guarded(container.demux(stream), "packets"):
        deadline.check()
        if not packet.size:
            continue
        if packet.pts is None:
            return None
        if packet.is_keyframe:
            keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if not packet.is_discard:
            shown.append(packet.pts)
    origin = min(shown, default=0) if stream.start_time is None else stream.start_time
    first = -np.inf if start is None else start - NEAR
    last = np.inf if end is None else end - NEAR
    if len({*shown}) < len(shown):
        return None  # timestamps that repeat name no frame
    shown = sorted(pts for pts in shown if first <= float((pts - origin) * base) < last)
    if not shown:
        raise NoFrames(_nothing(start, end))
    wanted = {index: shown[index] for index in place(len(shown))}
    found: dict[int, RGB] = {}
    position: int | None = None  # of the decoder: pts of its last frame
    frames: Iterator[av.VideoFrame] = iter(())
    for target in sorted(set(wanted.values())):
        key = max((key for key in keys if key[0] <= target), default=None)
        if key is None:
            return None
        fresh = position is None or key[0] > position
        try:
            if fresh:
                container.seek(key[1], stream=stream)
                frames = container.decode(stream)
            for frame in frames:
                deadline.check()
                if frame.pts is None or frame.is_corrupt or (fresh and frame.pts > target):
                    return None
                fresh, position = False, frame.pts
                if frame.pts >= target:
                    found[target] = rgb(frame)
                    break
            else:
                return None
        except av.FFmpegError:
            return None
    return [Placed(index, float((shown[index] - origin) * base), found[shown[index]]) for index in place(len(shown))]


def _nothing(start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return "no frame can be decoded"
    return f"no frames between {start or 0:g} s and {'the end' if end is None else f'{end:g} s'}"
