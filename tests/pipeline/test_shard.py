"""Re-encoding: every frame, small, seekable, the same bytes; and shards that are planned alike every time."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.media.decoding import decode, iter_frames
from pipeline.media.encoding import EncodingFailed, Source, check_readable, encode, reencoded, scaled_size
from pipeline.media.probing import probe
from pipeline.media.video import NoFrames, VideoError
from pipeline.runtime.tars import iter_shard, read_sample
from pipeline.runtime.units import ShardResult, Unit
from pipeline.shard import ShardWorker, estimated_bytes, plan_shards, segment_frames
from pipeline.stage_specs import shard_spec
from schemas.atomic import sha256_file
from schemas.config import Experiment, Shard
from schemas.shards import clip_meta
from schemas.tables import CLIP_INDEX, FAILURES, table, video_key
from tests.pipeline.conftest import cut, write_video

decord = pytest.importorskip("decord")


def row(root: Path, path: str, **given: Any) -> dict[str, Any]:
    facts = dataclasses.asdict(probe(root / path))
    base = {"start": None, "end": None, "label": 3, "label_text": "three", "split": "train", "text": None}
    name = given.pop("video_id", path)
    return {"key": video_key(name), "video_id": name, "path": path, **base, **facts, **given}


def run(worker: ShardWorker, unit: Unit) -> ShardResult:
    *steps, result = worker.run(unit)
    assert steps == [1] * len(unit.rows)
    assert isinstance(result, ShardResult)
    return result


def opened(data: bytes) -> Any:
    return decord.VideoReader(io.BytesIO(data), num_threads=1)


@pytest.mark.parametrize(
    ("size", "short", "stored"),
    [
        ((1920, 1080), 256, (456, 256)),
        ((1080, 1920), 256, (256, 456)),
        ((320, 240), 256, (320, 240)),
        ((321, 241), 256, (320, 240)),
        ((427, 257), 256, (426, 256)),
        ((3, 400), 256, (10, 400)),  # decord gives none of 2 to 8, 12, 16, 24, 48 and 72
        ((72, 108), 72, (70, 108)),
        ((640, 480), 255, (340, 256)),
    ],
)
def test_sizes_are_even_and_never_larger(size: tuple[int, int], short: int, stored: tuple[int, int]) -> None:
    assert scaled_size(*size, short) == stored


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size", "rotation"),
    [
        ("a.mp4", "libx264", "yuv420p", (64, 48), 0),
        ("a.mp4", "libx264", "yuv444p", (63, 47), 0),
        ("a.mp4", "libx264", "yuv420p10le", (128, 64), 0),
        ("a.mp4", "libx264", "yuv420p", (128, 64), 90),
        ("a.mp4", "libx264", "yuv420p", (128, 64), 180),
        ("a.mp4", "libx264", "yuv420p", (128, 64), 270),
        ("a.avi", "mpeg4", "yuv420p", (64, 48), 0),
        ("a.webm", "libvpx", "yuv420p", (64, 48), 0),
    ],
)
def test_the_clip_shows_what_the_source_shows(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, size: tuple[int, int], rotation: int
) -> None:
    path = write_video(tmp_path / name, codec=codec, pix_fmt=pix_fmt, size=size, rotation=rotation)
    source = list(iter_frames(path))
    clip = encode(decode(path), 12.0, Shard(gop=6, crf=10))
    reader = opened(clip.data)
    assert len(reader) == clip.frames == len(source) == 24
    assert list(reader.get_key_indices()) == [0, 6, 12, 18]
    assert reader.get_avg_fps() == pytest.approx(12)
    for number in (0, 13, 23):
        got = reader[number].asnumpy().astype(int)
        assert got.shape == (clip.height, clip.width, 3)
        expected = source[number][: clip.height, : clip.width]
        assert np.abs(got - expected).mean() < 4, number


def test_full_range_and_bt709_come_out_in_the_same_colours(tmp_path: Path) -> None:
    def white(number: int, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), 255 if number % 2 else 0, np.uint8)

    path = write_video(tmp_path / "full.mp4", pix_fmt="yuvj420p", colour_range=2, draw=white)
    reader = opened(encode(decode(path), 12.0, Shard(crf=5)).data)
    assert reader[0].asnumpy().max() <= 4 and reader[1].asnumpy().min() >= 251


def test_fractional_rates_stay_exact(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    clip = encode(decode(path), 30000 / 1001, Shard())
    assert clip.fps == 30000 / 1001
    assert opened(clip.data).get_avg_fps() == pytest.approx(30000 / 1001)
    with pytest.raises(NoFrames):
        encode(iter(()), 25.0, Shard())


@pytest.mark.parametrize(("step", "numbers"), [(1, range(24)), (2, range(0, 24, 2)), (5, range(0, 24, 5))])
def test_every_nth_frame_is_stored(tmp_path: Path, step: int, numbers: range) -> None:
    """At the speed it was shown at; what is left out is not missing."""
    path = write_video(tmp_path / "a.mp4")
    every = opened(reencoded(Source(path, None, None, 12.0, Shard(crf=1), 60))[0].data)
    clip, loss = reencoded(Source(path, None, None, 12.0, Shard(crf=1, frame_step=step), 60))
    stored = opened(clip.data)
    assert (clip.frames, clip.fps, loss.missing) == (len(numbers), 12.0 / step, 0)
    for place, number in enumerate(numbers):
        assert np.abs(stored[place].asnumpy().astype(int) - every[number].asnumpy()).mean() < 3


def test_fastdecode_leaves_out_what_takes_time_to_decode(tmp_path: Path) -> None:
    """Groups and frames stay; without x264's deblocking and arithmetic coding the pictures hardly change."""
    path = write_video(tmp_path / "a.mp4")
    plain, fast = (encode(decode(path), 12.0, Shard(gop=4, **given)) for given in ({}, {"tune": "fastdecode"}))
    with av.open(io.BytesIO(fast.data)) as container:
        assert [packet.is_keyframe for packet in container.demux(video=0) if packet.size] == 6 * [True, *3 * [False]]
    assert b"cabac=0" in fast.data and b"deblock=0" in fast.data and b"cabac=1" in plain.data
    difference = opened(plain.data)[9].asnumpy().astype(int) - opened(fast.data)[9].asnumpy()
    assert np.abs(difference).mean() < 4


def test_frames_in_between_can_be_left_out(tmp_path: Path) -> None:
    """Three of four frames are no other frame's reference; the first of each group of 12 is a key frame."""
    clip = encode(decode(write_video(tmp_path / "a.mp4")), 12.0, Shard(bframes=3))
    with av.open(io.BytesIO(clip.data)) as container:
        container.streams.video[0].codec_context.skip_frame = "NONREF"
        kinds = ["?IPB"[frame.pict_type] for frame in container.decode(video=0)]
    assert clip.frames == 24 and kinds == 2 * ["I", "P", "P", "P"]
    check_readable(clip)


def test_options_that_came_later_leave_finished_clips_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """At their defaults they are not in what a stage depends on."""
    monkeypatch.setattr("pipeline.stage_specs._manifest", lambda workspace: "digest")

    def config(**shard: Any) -> dict[str, Any]:
        return shard_spec(Experiment.model_validate({"workspace": "w", "shard": shard})).config

    assert not {"tune", "frame_step", "bframes"} & set(config())
    assert config(tune="fastdecode", frame_step=2) == {**config(), "tune": "fastdecode", "frame_step": 2}


def test_a_shard_and_its_failures(tmp_path: Path) -> None:
    root, options = tmp_path / "data", Shard(short_side=32, gop=4)
    write_video(root / "a.mp4")
    write_video(root / "b.mp4", container={"movflags": "faststart"})
    rows = [
        row(root, "a.mp4"),
        row(root, "b.mp4"),
        row(root, "a.mp4", start=0.5, end=1.0, video_id="a.mp4#0.5-1", label=None, label_text=None, split=""),
        row(root, "a.mp4", start=50.0, end=None, video_id="a.mp4#50-"),
        {**row(root, "a.mp4"), "path": "gone.mp4", "video_id": "gone.mp4", "key": video_key("gone.mp4")},
    ]
    cut(root / "b.mp4", root / "b.mp4", 0.6)
    result, again = (run(ShardWorker(tmp_path / name, root, options), Unit(7, rows)) for name in ("one", "two"))
    assert dataclasses.replace(again, seconds={}) == dataclasses.replace(result, seconds={})
    assert {failed["video_id"]: failed["error"] for failed in result.failures} == {
        "b.mp4": "CorruptVideo",
        "a.mp4#50-": "NoFrames",
        "gone.mp4": "UnreadableFile",
    }
    table(result.rows, CLIP_INDEX)
    table(result.failures, FAILURES)
    path = tmp_path / "one" / "000007.tar"
    assert result.files == {"000007.tar": sha256_file(path)}
    assert [found["frames"] for found in result.rows] == [24, 6]
    with open(path, "rb") as file:
        for found, source in zip(result.rows, (rows[0], rows[2]), strict=True):
            fields = read_sample(file, found["offset"], found["length"], found["key"])
            meta = clip_meta(fields["json"], "test")
            assert (meta.video_id, meta.label, meta.split) == (source["video_id"], source["label"], source["split"])
            assert (meta.width, meta.height, meta.fps) == (42, 32, 12.0)
            assert len(opened(fields["mp4"])) == meta.frames == found["frames"]
    assert [key for key, _ in iter_shard(path)] == [rows[0]["key"], rows[2]["key"]]


def test_a_shard_of_failures_is_an_empty_tar(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    whole = row(tmp_path, write_video(tmp_path / "b.mp4").name)
    result = run(ShardWorker(tmp_path / "clips", tmp_path, Shard()), Unit(0, [{**whole, "path": "a.mp4"}]))
    assert not result.rows and [failed["error"] for failed in result.failures] == ["NotAVideo"]
    assert list(iter_shard(tmp_path / "clips" / "000000.tar")) == []


def test_a_silent_loss_of_frames_is_a_failure_or_recorded(tmp_path: Path) -> None:
    """The last third of 30 frames is zeros: the file ends where it should, and no decoder says a word."""
    path = write_video(tmp_path / "a.webm", codec="libvpx-vp9", frames=30)
    path.write_bytes(harmed(path.read_bytes()))
    damaged = row(tmp_path, "a.webm", codec="libvpx-vp9", frames=30)
    strict, lenient = (
        run(ShardWorker(tmp_path / name, tmp_path, Shard(max_lost_frames=name)), Unit(0, [damaged]))
        for name in ("5%", "90%")
    )
    (failed,) = strict.failures
    assert failed["error"] == "TruncatedVideo" and "of 30 frames" in failed["message"]
    ((_, fields),) = iter_shard(tmp_path / "90%" / "000000.tar")
    meta = clip_meta(fields["json"], "here")
    assert meta.lost == 30 - meta.frames > 2 and lenient.rows[0]["frames"] == meta.frames


def harmed(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3] + bytes(len(data) - len(data) * 2 // 3)


def test_a_whole_clip_says_nothing_of_losses(tmp_path: Path) -> None:
    """So that the bytes of clips made before losses were counted stay what they are."""
    run(ShardWorker(tmp_path, tmp_path, Shard()), Unit(0, [row(tmp_path, write_video(tmp_path / "a.mp4").name)]))
    ((_, fields),) = iter_shard(tmp_path / "000000.tar")
    assert b"lost" not in fields["json"] and b"corrupt" not in fields["json"]


@pytest.mark.medium
def test_a_video_that_takes_the_memory_costs_itself_only(tmp_path: Path) -> None:
    rows = [row(tmp_path, write_video(tmp_path / name, frames=3).name) for name in ("a.mp4", "b.mp4")]
    large = row(tmp_path, write_video(tmp_path / "large.mp4", frames=2, size=(6400, 6400),
                                      options={"preset": "ultrafast"}).name)  # fmt: skip
    worker = ShardWorker(tmp_path / "clips", tmp_path, Shard(), memory=160 << 20)
    result = run(worker, Unit(0, [rows[0], large, rows[1]]))
    (failed,) = result.failures
    assert failed["video_id"] == "large.mp4" and failed["error"] in ("TooMuchMemory", "ProcessDied")
    assert "memory" in failed["message"]
    assert [found["video_id"] for found in result.rows] == ["a.mp4", "b.mp4"]


def test_an_unforeseen_exception_is_the_videos(tmp_path: Path) -> None:
    rows = [row(tmp_path, write_video(tmp_path / name).name) for name in ("a.mp4", "b.mp4")]
    rows[0]["fps"] = float("nan")
    result = run(ShardWorker(tmp_path / "clips", tmp_path, Shard()), Unit(0, rows))
    (failed,) = result.failures
    assert (failed["video_id"], failed["error"]) == ("a.mp4", "Unforeseen")
    assert failed["message"].startswith("ValueError: ")
    assert [found["video_id"] for found in result.rows] == ["b.mp4"]


@pytest.mark.parametrize("short", [48, 72, 16, 6])
def test_what_is_stored_the_trainers_decoder_can_give(tmp_path: Path, short: int) -> None:
    """decord cannot give some widths, such as 48 and 72."""
    path = write_video(tmp_path / "a.mp4", size=(144, 216), frames=4)
    clip = encode(decode(path), 12.0, Shard(short_side=short))
    assert opened(clip.data)[3].shape == (clip.height, clip.width, 3)


def test_a_clip_that_the_trainer_cannot_read_is_a_failure(tmp_path: Path) -> None:
    clip = encode(decode(write_video(tmp_path / "a.mp4")), 12.0, Shard())
    check_readable(clip)
    for wrong in (dataclasses.replace(clip, frames=23), dataclasses.replace(clip, data=clip.data[:900])):
        with pytest.raises(EncodingFailed, match="the trainer's decoder"):
            check_readable(wrong)


def test_an_exotic_colour_matrix_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", options={"x264-params": "colormatrix=YCgCo"})
    for read in (lambda: list(iter_frames(path)), lambda: encode(decode(path), 12.0, Shard())):
        with pytest.raises(VideoError, match="colour matrix YCgCo cannot be converted"):
            read()


def manifest(count: int) -> list[dict[str, Any]]:
    facts = {"start": None, "end": None, "width": 640, "height": 480, "frames": 300, "fps": 30.0, "duration": 10.0}
    return [{"key": video_key(str(number)), "video_id": str(number), **facts} for number in range(count)]


def test_plans_are_cut_by_size_and_count() -> None:
    rows, each = manifest(100), estimated_bytes(manifest(1)[0], Shard())
    units = plan_shards(rows, Shard(max_mb=each * 10.5 / 1e6))
    assert [unit.shard for unit in units] == list(range(10))
    assert [len(unit.rows) for unit in units] == [10] * 10
    keys = [found["key"] for unit in units for found in unit.rows]
    assert keys == sorted(found["key"] for found in rows)
    assert plan_shards(rows[::-1], Shard(max_mb=each * 10.5 / 1e6)) == units
    assert [len(unit.rows) for unit in plan_shards(rows, Shard(max_videos=30))] == [30, 30, 30, 10]
    assert [len(unit.rows) for unit in plan_shards(rows, Shard(max_mb=each / 2e6))] == [1] * 100
    assert plan_shards([], Shard()) == []


def test_segments_count_their_own_frames() -> None:
    whole = manifest(1)[0]
    assert segment_frames(whole) == 300
    assert segment_frames({**whole, "start": 2.0, "end": 4.0}) == 60
    assert segment_frames({**whole, "start": 9.0, "end": 40.0}) == 30
    assert estimated_bytes({**whole, "start": 2.0, "end": 4.0}, Shard()) < estimated_bytes(whole, Shard()) / 4
    assert estimated_bytes(whole, Shard(crf=29)) < estimated_bytes(whole, Shard())


@pytest.mark.medium
def test_real_clips_end_in_shards_or_failures(real_clips: Path, tmp_path: Path) -> None:
    names = [path.relative_to(real_clips).as_posix() for path in sorted((real_clips / "hard").iterdir())]
    rows = [row(real_clips, name) for name in names]
    result = run(ShardWorker(tmp_path, real_clips, Shard(short_side=64, preset="ultrafast")), Unit(0, rows))
    assert {found["video_id"]: found["error"] for found in result.failures} == {"hard/dc_corrupted.mp4": "CorruptVideo"}
    assert {found["video_id"] for found in result.rows} == set(names) - {"hard/dc_corrupted.mp4"}
    for (key, fields), found in zip(iter_shard(tmp_path / "000000.tar"), result.rows, strict=True):
        assert key == found["key"] and len(opened(fields["mp4"])) == found["frames"]


def test_real_rotation_as_decord_shows_it(real_clips: Path) -> None:
    path = real_clips / "hard" / "dc_video_90.mov"
    expected = decord.VideoReader(str(path), num_threads=1)
    clip = encode(decode(path), 30.0, Shard(short_side=320, crf=10))
    got = opened(clip.data)
    assert got[0].shape == expected[0].shape
    assert np.abs(got[1].asnumpy().astype(int) - expected[1].asnumpy()).mean() < 4


def test_errors_of_a_video_are_video_errors() -> None:
    assert issubclass(NoFrames, VideoError)


@pytest.mark.medium
@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")
def test_bytes_do_not_depend_on_what_memory_held(tmp_path: Path) -> None:
    """x264's mbtree reads memory it never wrote, which made 2 clips in 165 differ between two runs."""
    scenery = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)

    def pan(number: int, width: int, height: int) -> np.ndarray:
        frame = np.roll(scenery, 3 * number, axis=1)[:height, :width].copy()
        frame[100:140, 5 * number : 5 * number + 40] = 255
        return frame

    path = write_video(tmp_path / "a.mp4", size=(320, 240), frames=36, draw=pan)
    program = (
        "import hashlib, sys; from pathlib import Path; from pipeline.media.decoding import decode; "
        "from pipeline.media.encoding import encode; from schemas.config import Shard; "
        "print(hashlib.sha256(encode(decode(Path(sys.argv[1])), 30.0, Shard()).data).hexdigest())"
    )
    digests = set()
    for filling in ("0", "1", "170"):
        environment = {**os.environ, "MALLOC_PERTURB_": filling, "MALLOC_MMAP_THRESHOLD_": "1000000000"}
        command = [sys.executable, "-c", program, str(path)]
        digests.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(digests) == 1
