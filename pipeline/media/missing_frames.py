"""How many frames of a video are missing: counted while it is decoded, for decoders pass over damage without a word.

Three kinds are added up: frames whose packet is there and that no decoder gives, holes in the times of a video of
constant rate, and what lies between the last frame and the declared end. A video cut at a packet's bound, in a format
that declares nothing (a transport stream), looks like a shorter one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.media.video import NEAR, CorruptVideo, Timeline, TruncatedVideo, timed

CORRUPT = 0.1  # of a video's frames: beyond it the video is a failure
STEADY = 0.9  # of the steps from frame to frame are alike: the rate is constant
PAUSE = 60.0  # seconds: a longer hole is a pause of the recording, or a timestamp that jumps
HOLES = 4  # a video of constant rate with more holes than these, and than 5 % of its frames, has dropped them itself
_DECLARING = frozenset({"matroska", "webm", "mov", "mp4", "flv", "asf", "mxf", "ogg"})
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")  # Matroska's tag DURATION


@dataclass(frozen=True)
class Loss:
    """What a tally comes to. `expected` frames is what there would be without damage."""

    frames: int
    undecoded: int
    holes: int
    end: int
    corrupt: int

    @property
    def missing(self) -> int:
        return self.undecoded + self.holes + self.end

    @property
    def expected(self) -> int:
        return self.frames + self.missing

    def check(self, allowed: str) -> None:
        """Raises TruncatedVideo for more missing frames than `allowed`, "5%" or "25"; CorruptVideo."""
        share = float(allowed.rstrip("%"))
        most = share / 100 * self.expected if allowed.endswith("%") else share
        if self.missing > max(1, most):
            counts = {"cannot be decoded": self.undecoded, "are holes in its times": self.holes,
                      "are missing at its end": self.end}  # fmt: skip
            listed = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            raise TruncatedVideo(
                f"only {self.frames} of {self.expected} frames: {listed} (shard.max_lost_frames = {allowed!r})"
            )
        if self.corrupt > CORRUPT * self.frames:
            raise CorruptVideo(f"the decoder calls {self.corrupt} of {self.frames} frames corrupt")


@dataclass(frozen=True)
class _Header:
    """What a file says of its video before any of it is read."""

    base: Fraction | None
    timed: bool
    origin: int | None  # timestamp of the first frame
    ends: float | None  # seconds
    frames: int  # 0: it does not say


class Tally:
    """Filled by decode(): packets as they are read, frames as they are shown."""

    def __init__(self) -> None:
        self._header = _Header(None, False, None, None, 0)
        self._clear()

    def _clear(self) -> None:
        self._frames = self._corrupt = self._interlaced = self._packets = 0
        self._times: list[int] = []  # of packets that show something
        self._step = 0  # duration of the last of them
        self._damaged = False  # the demuxer said so
        self._reached = 0  # an untimed stream's last dts, which counts frames
        self._line = Timeline(self._header.base)
        self._sound = 0.0  # seconds at which it ends

    def begin(self, container: InputContainer, stream: VideoStream) -> None:
        """Of a decoding that starts, or starts again: what was counted before is forgotten."""
        self._header = _Header(
            stream.time_base, timed(container), stream.start_time, _declared_end(container, stream), stream.frames
        )
        self._clear()

    def packet(self, packet: Packet[Any]) -> None:
        if not packet.size:
            return
        self._damaged |= bool(packet.is_corrupt)
        if packet.is_discard or not _shows(packet):
            return
        self._packets += 1
        self._reached = max(self._reached, 1 + (packet.dts or 0))
        if packet.pts is not None:
            self._times.append(self._line.at(packet.pts, packet.dts, packet.duration))
            self._step = packet.duration or self._step

    def beside(self, packet: Packet[Any]) -> None:
        """A packet of another stream."""
        if packet.size and packet.pts is not None and packet.time_base and packet.stream.type == "audio":
            self._sound = max(self._sound, float((packet.pts + (packet.duration or 0)) * packet.time_base))

    def frame(self, frame: av.VideoFrame) -> None:
        self._frames += 1
        self._corrupt += bool(frame.is_corrupt)
        self._interlaced += bool(frame.interlaced_frame)

    def loss(self, start: float | None = None, end: float | None = None) -> Loss:
        """What is missing of the video, or of the segment of it that was decoded."""
        header, frames = self._header, self._frames
        bare = self._packets - len(self._times)  # packets without a time: a few are a sign of damage
        if not header.timed or not header.base or bare > 0.1 * self._packets:
            if start is not None or end is not None:
                return Loss(frames, 0, 0, 0, self._corrupt)
            undecoded = max(0, self._paired(self._packets) - frames)
            return Loss(frames, undecoded, 0, max(0, header.frames - self._reached), self._corrupt)
        times = sorted(self._times)
        origin = min(times, default=0) if header.origin is None else header.origin
        low = float("-inf") if start is None else start - NEAR
        high = float("inf") if end is None else end - NEAR
        inside = [time for time in times if low <= float((time - origin) * header.base) < high]
        whole = start is None and end is None
        undecoded = max(0, self._paired(len(inside) + bare * whole) - frames)
        return Loss(frames, undecoded, self._holes(inside), self._at_end(inside, origin, end), self._corrupt)

    def _paired(self, packets: int) -> int:
        """Fields that come in packets of their own are half a frame each."""
        fields = self._interlaced > 0.9 * self._frames and packets > 1.8 * self._frames
        return packets // 2 if fields else packets

    def _holes(self, times: list[int]) -> int:
        steps = _steps(times)
        if len(steps) < 4:
            return 0
        usual = median(steps)
        pause = PAUSE / (self._header.base or 1)
        wide = [round(step / usual) - 1 for step in steps if 1.75 * usual < step < pause]
        alike = sum(abs(step - usual) <= 0.15 * usual + 1 for step in steps)
        steady = alike >= STEADY * len(steps) and len(wide) <= max(HOLES, 0.05 * len(steps))
        return sum(wide) if steady or self._damaged or self._packets > len(self._times) else 0

    def _at_end(self, times: list[int], origin: int, end: float | None) -> int:
        header, steps = self._header, _steps(times)
        step = median(steps) if steps else self._step
        sound = self._sound if self._damaged or self._corrupt else None  # then it tells how long the video was
        ends = header.ends if header.ends is not None else sound
        if ends is None or not header.base or not step:
            return 0
        last = times[-1] + max(self._step, step)
        reached = float(max(last, last - origin) * header.base)  # some declare from zero, some from the first frame
        due = ends if end is None else min(ends, end)
        return max(0, round((due - reached) / float(step * header.base)))


def _steps(times: list[int]) -> list[int]:
    return [after - before for before, after in pairwise(times) if after > before]


def _shows(packet: Packet[Any]) -> bool:
    """VP8 keeps frames to refer to in packets of their own, marked as not shown."""
    if packet.stream.codec_context.name not in ("vp8", "libvpx"):
        return True
    return bool(memoryview(packet)[0] & 0x10)


def _declared_end(container: InputContainer, stream: VideoStream) -> float | None:
    """Seconds at which the video ends by its own header, where the format has a header that declares it."""
    if not _DECLARING & set(container.format.name.split(",")):
        return None
    if (clock := _CLOCK.match(stream.metadata.get("DURATION", ""))) is not None:
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # else it may be another stream that is so long
    return container.duration / av.time_base if container.duration and alone else None
