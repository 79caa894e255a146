"""Both decoders give the same pixels, whatever frames are asked for, and report what they cannot read."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.errors import UserError
from train.data import decoders
from train.data.decoders import DecodingFailed, decoder, with_decord, with_pyav

FRAMES = 40
KINDS = {  # x264's options
    "as shard writes": {"x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=0:bframes=0:ref=1"},
    "fastdecode": {"tune": "fastdecode", "x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=0:bframes=0"},
    "shard.bframes": {"g": "12", "bf": "3", "x264-params": "b-adapt=0:b-pyramid=none", "flags": "+cgop"},
    "frames in another order": {"g": "12", "bf": "2", "flags": "+cgop"},
    "one group of pictures": {"g": "250", "bf": "0"},
    "open groups": {"g": "12", "bf": "3", "x264-params": "open-gop=1:b-pyramid=normal:scenecut=0:b-adapt=0"},
}


@lru_cache
def video(kind: str, width: int = 96, height: int = 64) -> bytes:
    """Noise that moves: no two frames are alike."""
    noise, buffer = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8), io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(12), options={"preset": "veryfast", **KINDS[kind]})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(noise, number, 1), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@lru_cache
def every_frame(kind: str) -> NDArray[np.uint8]:
    with av.open(io.BytesIO(video(kind))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@settings(max_examples=40)
@given(st.sampled_from(list(KINDS)), st.sets(st.integers(0, FRAMES - 1), min_size=1, max_size=16))
def test_chosen_frames_are_those_of_the_whole_video(kind: str, chosen: set[int]) -> None:
    wanted = sorted(chosen)
    found = with_pyav(video(kind), wanted, FRAMES)
    assert found.frames == FRAMES and np.array_equal(found.pixels_THWC, every_frame(kind)[wanted])


@settings(max_examples=40)
@given(st.sampled_from(list(KINDS)[:-1]), st.sets(st.integers(0, FRAMES - 1), min_size=1, max_size=16))
def test_both_give_the_same_pixels(kind: str, chosen: set[int]) -> None:
    """Not of open groups, which shards do not have: there decord begins too late."""
    pytest.importorskip("decord")
    wanted = sorted(chosen)
    theirs, ours = with_decord(video(kind), wanted, FRAMES), with_pyav(video(kind), wanted, FRAMES)
    assert theirs.frames == ours.frames and np.array_equal(theirs.pixels_THWC, ours.pixels_THWC)


@pytest.mark.parametrize("size", [(98, 66), (100, 62), (342, 256), (256, 454)])
def test_at_any_size(size: tuple[int, int]) -> None:
    pytest.importorskip("decord")
    mp4 = video("as shard writes", *size)
    ours, theirs = (by(mp4, [0, 7, 39], FRAMES).pixels_THWC for by in (with_pyav, with_decord))
    assert ours.shape == (3, size[1], size[0], 3) and np.array_equal(ours, theirs)


def test_only_what_is_needed_is_decoded() -> None:
    """Of groups of 12, from the key frame to the last one wanted."""
    with av.open(io.BytesIO(video("as shard writes"))) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for wanted, fed in [([0], 1), ([11], 12), ([12], 1), ([2, 5], 6), ([5, 13], 6 + 2), ([39], 4)]:
        times = {packets[number].pts: row for row, number in enumerate(wanted)}
        assert len(list(decoders.needed(packets, times))) == fed, wanted


@pytest.mark.parametrize("name", ["pyav", "decord"])
def test_another_number_of_frames_is_reported_not_guessed(name: str) -> None:
    pytest.importorskip(decoders.PACKAGES[name])
    found = decoder(name)(video("as shard writes"), [0], FRAMES + 1)
    assert (found.frames, found.pixels_THWC.size) == (FRAMES, 0)


@pytest.mark.parametrize("name", ["pyav", "decord"])
@pytest.mark.parametrize("how", ["nothing", "noise", "cut", "no index", "no pictures"])
def test_damage_is_an_error(name: str, how: str) -> None:
    pytest.importorskip(decoders.PACKAGES[name])
    mp4 = video("as shard writes")
    index, pictures = mp4.index(b"moov"), mp4.index(b"mdat") + 4
    damaged = {
        "nothing": b"", "noise": bytes(255 - byte for byte in mp4), "cut": mp4[:index],
        "no index": mp4[:index] + bytes(200) + mp4[index + 200 :],
        "no pictures": mp4[:pictures] + bytes(index - 4 - pictures) + mp4[index - 4 :],
    }[how]  # fmt: skip
    with pytest.raises(DecodingFailed):
        found = decoder(name)(damaged, [0, 20], FRAMES)
        assert found.frames == FRAMES, "then the caller reports it"


def test_frames_of_one_time_are_an_error_not_one_for_another() -> None:
    copied = io.BytesIO()
    with av.open(io.BytesIO(video("as shard writes"))) as source, av.open(copied, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        packets[4].pts = packets[5].pts
        for packet in packets:
            packet.stream = stream
            target.mux(packet)
    with pytest.raises(DecodingFailed, match="of one time"):
        with_pyav(copied.getvalue(), [4], FRAMES)


def test_what_is_installed_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"av"}
    monkeypatch.setattr(decoders, "find_spec", lambda name: name if name in there else None)
    choose = decoder.__wrapped__  # without its memory
    assert choose("auto") is with_pyav
    with pytest.raises(UserError, match="pretrain.decoder = 'decord': install decord"):
        choose("decord")
    there = {"decord"}
    assert choose("auto") is with_decord
    there = set()
    with pytest.raises(UserError, match="install av or decord"):
        choose("auto")
