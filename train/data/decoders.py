"""Frames out of an encoded video: PyAV and decord behind one small protocol, for they give the same pixels.

Shape suffixes: T frames, H rows, W columns; N packets, one a frame, in the order they are decoded in.
"""

import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.errors import UserError

PACKAGES = {"pyav": "av", "decord": "decord"}  # a decoder's name -> what is imported; the first is the faster one


class DecodingFailed(Exception):
    """The reason, in the library's words."""


class Decoded(NamedTuple):
    frames: int  # of the whole video
    pixels_THWC: NDArray[np.uint8]  # RGB, of those that were asked for; where `frames` is another number, none


Decoder = Callable[[bytes, Sequence[int], int], Decoded]
"""(mp4, ascending frame numbers, frames that the video should have). Keeps nothing. Errors: DecodingFailed."""


@lru_cache
def decoder(name: str) -> Decoder:
    """name: auto, pyav or decord; auto is the first of these that is installed. Errors: UserError when none is."""
    wanted = list(PACKAGES) if name == "auto" else [name]
    for each in wanted:
        if find_spec(PACKAGES[each]):
            return with_pyav if each == "pyav" else with_decord
    raise UserError(
        f"pretrain.decoder = {name!r}: install {' or '.join(PACKAGES[each] for each in wanted)}, which decode clips"
    )


def with_pyav(mp4: bytes, wanted: Sequence[int], expected: int) -> Decoded:
    """Only what the wanted frames need is decoded: from a key frame to the last wanted one of its group."""
    import av
    from av.video.reformatter import VideoReformatter

    try:
        with av.open(io.BytesIO(mp4), format="mp4") as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            context.thread_count = 1
            packets = [packet for packet in container.demux(stream) if packet.size]
            if len(packets) != expected:
                return Decoded(len(packets), np.empty((0, 0, 0, 3), np.uint8))
            shown = sorted(packet.pts for packet in packets)
            if len(set(shown)) != len(shown):
                raise DecodingFailed("several frames are of one time")
            place = {shown[number]: row for row, number in enumerate(wanted)}
            pixels_THWC, found = np.empty((0, 0, 0, 3), np.uint8), set[int]()
            reformatter = VideoReformatter()
            for packet in (*needed(packets, place), None):  # None: what the decoder still holds
                if packet is not None:  # what no other frame leans on is skipped where it is not wanted
                    context.skip_frame = "DEFAULT" if packet.pts in place else "NONREF"
                for frame in context.decode(packet):
                    if frame.pts in place:
                        # One thread: the default starts several for each frame, which takes ten times as long.
                        rgb = reformatter.reformat(frame, format="rgb24", threads=1)
                        if not found:
                            pixels_THWC = np.empty((len(wanted), rgb.height, rgb.width, 3), np.uint8)
                        pixels_THWC[place[frame.pts]] = rgb.to_ndarray()
                        found.add(place[frame.pts])
            if len(found) != len(wanted):
                raise DecodingFailed(f"{len(found)} of {len(wanted)} frames can be decoded")
            return Decoded(expected, pixels_THWC)
    except (av.FFmpegError, IndexError, TypeError, ValueError) as error:  # of times and sizes that make no sense
        raise DecodingFailed(_reason(error)) from error


def needed(packets: Sequence[Any], times: dict[int, int]) -> list[Any]:
    """The packets, in order, without those that no wanted frame depends on."""
    times_N = np.asarray([packet.pts for packet in packets])
    keys = np.flatnonzero([packet.is_keyframe for packet in packets])
    group_N = np.searchsorted(keys, np.arange(len(packets)), side="right") - 1
    fed = np.zeros(len(packets), bool)
    wanted = np.flatnonzero(np.isin(times_N, list(times)))
    for number in wanted:
        fed[keys[max(group_N[number], 0)] : number + 1] = True
    if (times_N < times_N[keys[group_N]]).any():  # open groups: some frames lean on the group before
        fed[keys[max(group_N[wanted[0]] - 1, 0)] : wanted[-1] + 1] = True
    return list(compress(packets, fed))


def with_decord(mp4: bytes, wanted: Sequence[int], expected: int) -> Decoded:
    """The reader lives for this call only: decord's grow without bound when kept."""
    import decord

    try:
        reader = decord.VideoReader(io.BytesIO(mp4), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != expected:
            return Decoded(len(reader), np.empty((0, 0, 0, 3), np.uint8))
        return Decoded(expected, reader.get_batch(list(wanted)).asnumpy())
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecodingFailed(_reason(error)) from error


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
