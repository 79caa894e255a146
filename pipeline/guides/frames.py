"""The stored clip as a guide gets it: its pictures, decoded in order."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np

from pipeline.guides import Frames
from pipeline.media.video import NoFrames, NotAVideo, guarded, reason_of, rgb

CHUNK = 32  # scored frames that go to the guide at once; 7 MB at 256 x 320


def scored_frames(data: bytes, stride: int, frames: int) -> Iterator[Frames]:
    """Every `stride`-th frame of a stored clip, from the first, in chunks: uint8 [CHUNK or fewer, H, W, 3].

    Raises VideoError when the mp4 cannot be decoded or has not `frames` frames, as its index says.
    """
    chunk = []
    for number, frame in enumerate(decoded(data, frames)):
        if number % stride == 0:
            chunk.append(rgb(frame))
        if len(chunk) == CHUNK:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def decoded(data: bytes, frames: int, options: dict[str, str] | None = None) -> Iterator[av.VideoFrame]:
    """All frames of a stored clip, by a decoder with these options of libav's. Raises VideoError as scored_frames."""
    count = 0
    try:
        container = av.open(io.BytesIO(data), "r", format="mp4")
    except av.FFmpegError as error:
        raise NotAVideo(f"the stored clip cannot be opened: {reason_of(error)}") from error
    with container:
        container.streams.video[0].codec_context.thread_count = 1  # other threads decode other clips
        if options:
            container.streams.video[0].codec_context.options = options
        for frame in guarded(container.decode(video=0), "frames"):
            yield frame
            count += 1
    if count != frames:
        raise NoFrames(f"the stored clip has {count} frames, its index says {frames}")
