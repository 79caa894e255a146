"""Re-encoding for cheap random access: small H.264 with short closed groups, the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.codec.context import Flags
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from pipeline.media.decoding import decode
from pipeline.media.missing_frames import Loss, Tally
from pipeline.media.video import (
    EncodingFailed,
    NoFrames,
    NotConvertible,
    Orientation,
    displayed_size,
    orientation_of,
    reason_of,
)
from schemas.config import Shard
from schemas.shards import UNREADABLE_WIDTHS

_TURNS = {  # the filters of each orientation
    Orientation(): [],
    Orientation(False, True, False): ["hflip"],
    Orientation(False, False, True): ["vflip"],
    Orientation(False, True, True): ["hflip", "vflip"],
    Orientation(True, False, False): ["transpose=cclock_flip"],
    Orientation(True, True, False): ["transpose=clock"],
    Orientation(True, False, True): ["transpose=cclock"],
    Orientation(True, True, True): ["transpose=clock_flip"],
}
# BT.601, limited range, is what decoders assume of untagged video: colours survive readers that ignore tags.
_COLOURS = "out_color_matrix=bt601:out_range=tv"
# bitexact and accurate_rnd keep swscale from taking shortcuts that differ between processors.
_SCALING = "flags=bicubic+accurate_rnd+full_chroma_int+bitexact"


@dataclass(frozen=True)
class Encoded:
    """An mp4 and what is in it."""

    data: bytes
    frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class Source:
    """A video, or a segment of one, to be re-encoded."""

    path: Path
    start: float | None
    end: float | None
    fps: float
    options: Shard
    time_limit: float  # seconds


def reencoded(source: Source) -> tuple[Encoded, Loss]:
    """The clip, and what is missing of its source. Raises VideoError, also where too much is."""
    tally = Tally()
    frames = decode(source.path, source.start, source.end, time_limit=source.time_limit, tally=tally)
    step = source.options.frame_step
    clip = encode(islice(frames, 0, None, step), source.fps / step, source.options)
    loss = tally.loss(source.start, source.end)
    loss.check(source.options.max_lost_frames)
    check_readable(clip)
    return clip, loss


def check_readable(clip: Encoded) -> None:
    """Raises EncodingFailed where the trainer's decoder, if it is installed, does not give the clip's frames."""
    try:
        import decord  # of the extra `train`; PyAV gives what it gives
    except ModuleNotFoundError:
        return
    size = (clip.height, clip.width, 3)
    try:
        reader = decord.VideoReader(io.BytesIO(clip.data), num_threads=1)
        found, shape = len(reader), reader[clip.frames - 1].shape
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise EncodingFailed(f"the trainer's decoder cannot give the clip of {clip.width} x {clip.height}: {reason}. "
                             "Choose another shard.short_side") from error  # fmt: skip
    if (found, shape) != (clip.frames, size):
        raise EncodingFailed(f"the trainer's decoder gives {found} frames of {shape}, not {clip.frames} of {size}")


def encode(frames: Iterable[av.VideoFrame], fps: float, options: Shard) -> Encoded:
    """Decoded frames, one to one, as displayed, at a constant `fps`: H.264 in mp4, without sound.

    Groups of `options.gop` frames, closed: a frame needs at most gop - 1 others.
    Raises VideoError of the frames' source, NoFrames when there are none, EncodingFailed for frames that
    libav cannot convert.
    """
    try:
        return _encode(frames, fps, options)
    except av.FFmpegError as error:
        raise EncodingFailed(f"cannot be converted: {reason_of(error)}") from error


def _encode(frames: Iterable[av.VideoFrame], fps: float, options: Shard) -> Encoded:
    # 30000/1001 and its like stay exact, and so does a frame an hour
    rate = Fraction(fps).limit_denominator(1001) if fps >= 1 else 1 / Fraction(round(1 / fps))
    scaler: _Scaler | None = None
    count = 0
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream: VideoStream | None = None
        for frame in frames:
            if scaler is None or stream is None:
                scaler = _Scaler(*scaled_size(*displayed_size(frame), options.short_side))
                stream = _add_stream(container, rate, scaler.width, scaler.height, options)
            scaled = scaler(frame)
            scaled.pts, scaled.time_base = count, 1 / rate
            scaled.pict_type = 0  # the source's frame types must not steer the encoder's
            container.mux(stream.encode(scaled))
            count += 1
        if stream is None or scaler is None:
            raise NoFrames("no frames to encode")
        container.mux(stream.encode(None))
    return Encoded(buffer.getvalue(), count, float(rate), scaler.width, scaler.height)


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """The stored size: the short side at most `short_side`, both even (chroma is halved), never enlarged.

    A width that the trainer's decoder cannot give becomes the next smaller one that it can, at least 10 pixels.
    """
    scale = min(1.0, short_side / min(width, height))
    sides = (max(2, min(side - side % 2, 2 * round(side * scale / 2))) for side in (width, height))
    stored_width, stored_height = sides
    while stored_width in UNREADABLE_WIDTHS:
        stored_width += 2 if stored_width < 10 else -2
    return stored_width, stored_height


def _add_stream(
    container: av.container.OutputContainer, rate: Fraction, width: int, height: int, options: Shard
) -> VideoStream:
    gop = options.gop
    stream = container.add_stream("libx264", rate=rate)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / rate
    context.thread_count = 1  # threads cut the picture into slices by their number: other bytes
    context.flags |= Flags.bitexact
    context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.SMPTE170M
    # mbtree reads memory that x264 never wrote: now and then a clip would come out with other bytes.
    # ref=1: every motion vector is relative to the frame before, so that its length is a speed.
    # Of frames in between, all of them and none that another leans on: a reader can leave out those it does not show.
    between = f"bframes={options.bframes}" + (":b-adapt=0:b-pyramid=none" if options.bframes else "")
    fixed = f"scenecut=0:open-gop=0:{between}:threads=1:mbtree=0:ref=1"
    stream.options = {
        "preset": options.preset,
        "crf": str(options.crf),
        "x264-params": f"keyint={gop}:min-keyint={gop}:{fixed}",
        **({"tune": options.tune} if options.tune else {}),
    }
    return stream


class _Scaler:
    """Turns, scales and converts to yuv420p of one size, whatever comes."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._graph: Graph | None = None
        self._kind: tuple[object, ...] | None = None

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        turn = orientation_of(frame)
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, turn)
        try:
            if self._graph is None or kind != self._kind:  # some streams change size or format on their way
                self._graph, self._kind = self._build(frame, turn), kind
            self._graph.push(frame)
            scaled = self._graph.pull()
        except av.FFmpegError as error:
            raise NotConvertible(frame, error) from error
        assert isinstance(scaled, av.VideoFrame)
        return scaled

    def _build(self, frame: av.VideoFrame, turn: Orientation) -> Graph:
        graph = Graph()
        graph.threads = 1
        source = graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base="1/1000",
            pixel_aspect="1/1",
            colorspace=str(int(frame.colorspace)),
            range=str(int(frame.color_range)),
        )
        steps = [*_TURNS[turn], f"scale={self.width}:{self.height}:{_SCALING}:{_COLOURS}", "format=yuv420p"]
        nodes = [graph.add(name, args or None) for name, _, args in (step.partition("=") for step in steps)]
        graph.link_nodes(source, *nodes, graph.add("buffersink")).configure()
        return graph
