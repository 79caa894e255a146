"""The facts of a video file, found by reading all of it: what the manifest says of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.media.file_endings import Ending
from pipeline.media.video import (
    TIME_LIMIT,
    CorruptVideo,
    Deadline,
    NoFrames,
    Timeline,
    TruncatedVideo,
    average_rate,
    displayed_size,
    guarded,
    opened,
    orientation_of,
    reason_of,
)


@dataclass(frozen=True)
class VideoFacts:
    """What the columns of schemas.tables.MANIFEST say of a file."""

    frames: int
    fps: float
    width: int
    height: int
    rotation: int
    codec: str
    duration: float
    bytes: int


def probe(path: Path, *, time_limit: float = TIME_LIMIT) -> VideoFacts:
    """Reads all packets of the best video stream and decodes its first frame.

    Raises VideoError: no video, no frame, cut short, unreadable, or not done within `time_limit` seconds.
    """
    deadline = Deadline(time_limit)
    with opened(path, threads=1) as (container, stream):
        frames, times, first, fault, corrupt = 0, _Span(stream.time_base), None, None, False
        ending = Ending(container.format.name)
        for packet in guarded(container.demux(), "packets"):
            deadline.check()
            ending.add(packet)
            if packet.stream_index != stream.index:
                continue
            if packet.size and not packet.is_discard:
                frames += 1
                times.add(packet)
            corrupt = bool(packet.is_corrupt) if packet.size else corrupt
            if first is None:
                try:
                    first = next(iter(packet.decode()), None)
                except av.FFmpegError as error:  # some streams begin in the middle of a group: try on
                    fault = error
        size = os.path.getsize(path)
        if corrupt or _beyond(container, stream, size):
            raise TruncatedVideo(f"cut short: data is missing after {frames} frames, the file has {size} bytes")
        if fault_at_end := ending.fault(path):
            raise TruncatedVideo(f"cut short: after {frames} frames, {fault_at_end} (the file has {size} bytes)")
        if frames and first is None:
            reason = reason_of(fault) if fault else "no reason given"
            raise CorruptVideo(f"none of {frames} frames can be decoded: {reason}")
        if not frames or not isinstance(first, av.VideoFrame):
            raise NoFrames("the video stream has no frames")
        duration = times.seconds() or _declared_seconds(container, stream)
        fps = average_rate(stream, frames, duration)
        rotation, (width, height) = orientation_of(first).rotation, displayed_size(first)
        codec = stream.codec_context.codec.canonical_name
        return VideoFacts(frames, fps, width, height, rotation, codec, duration or frames / fps, size)


class _Span:
    """From the first moment of a stream to the end of its last packet."""

    def __init__(self, base: Fraction | None) -> None:
        self._base, self._line = base, Timeline(base)
        self._first: int | None = None
        self._last = 0

    def add(self, packet: Packet[Any]) -> None:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None:
            return
        moment = self._line.at(stamp, packet.dts, packet.duration)
        self._first = moment if self._first is None else min(self._first, moment)
        self._last = max(self._last, moment + (packet.duration or 0))

    def seconds(self) -> float:
        return 0.0 if self._first is None or self._base is None else float((self._last - self._first) * self._base)


def _beyond(container: InputContainer, stream: VideoStream, size: int) -> bool:
    """Whether an mp4's table of frames points beyond its end. Other formats have none that can be trusted."""
    if "mp4" not in container.format.name:
        return False
    return any(entry.pos + entry.size > size for entry in stream.index_entries)


def _declared_seconds(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0
