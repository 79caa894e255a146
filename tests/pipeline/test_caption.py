"""The caption stage: batches across videos, errors that stay with their video, and decoding ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.caption import CaptionWorker, RowWorker, caption_units
from pipeline.caption_sets import group_videos
from pipeline.captioners import Frame, seed_of
from pipeline.captioners.oracle import OracleCaptioner
from pipeline.media.encoding import encode
from pipeline.media.keyframes import keyframe_indices
from pipeline.runtime.prefetch import map_ahead, streams_ahead
from pipeline.runtime.units import Row, ShardResult, Unit, Worker
from schemas.config import Caption, Clean, Oracle, Shard
from schemas.errors import UserError
from schemas.tables import CAPTIONS, CHANGES, FAILURES, table, video_key
from tests.pipeline.conftest import write_video

LEVELS = [20, 60, 100, 140, 180, 220]  # the grey of each of a test video's six frames


def save_video(path: Path, levels: list[int], height: int = 32) -> None:
    """A frame a level, 10 a second, 48 wide."""
    pictures = [np.full((height, 48, 3), level, np.uint8) for level in levels]
    frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(frames, 10.0, Shard(crf=1, gop=1)).data)


def row(name: str, **known: Any) -> Row:
    return {
        "key": video_key(name), "video_id": name, "path": name.partition("#")[0], "start": None, "end": None,
        "label": 0, "label_text": "spinning", "split": "", "text": None, "frames": 6, "fps": 10.0, "width": 48,
        "height": 32, "rotation": 0, "codec": "h264", "duration": 0.6, "bytes": 1, **known,
    }  # fmt: skip


class Grey:
    """Says the grey of a frame to the nearest ten; notes its batches; says nothing of, or breaks on, some greys."""

    def __init__(self, batch_size: int = 4, silent: tuple[str, ...] = (), bad: tuple[str, ...] = ()) -> None:
        self.batch_size, self.silent, self.bad = batch_size, silent, bad
        self.batches: list[list[str]] = []
        self.heights: list[list[int]] = []

    def caption(self, frames: list[Frame]) -> list[str]:
        self.heights.append([len(frame) for frame in frames])
        said = [f"grey {round(float(frame.mean()), -1):g}" for frame in frames]
        self.batches.append(said)
        if set(said) & set(self.bad):
            raise RuntimeError("the model chokes on a picture")
        return ["\n " if text in self.silent else f" {text}\n" for text in said]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for n in range(5):
        save_video(folder / f"{n}.mp4", LEVELS)
    for n in range(3):
        save_video(folder / f"high{n}.mp4", LEVELS, height=64)
    save_video(folder / "dark.mp4", [0, 0, 0])
    (folder / "text.mp4").write_text("not a video")
    return folder


def run(worker: Worker, rows: list[Row]) -> ShardResult:
    """Runs a unit; every video must have been reported once."""
    *finished, result = worker.run(Unit(7, rows))
    assert finished == [1] * len(rows)
    assert isinstance(result, ShardResult) and result.shard == 7 and not result.files
    table(result.rows, CAPTIONS), table(result.failures, FAILURES)  # of the right columns and types
    return result


def worker(captioner: Grey, data: Path, **given: Any) -> CaptionWorker:
    options = Caption(**given)
    return CaptionWorker(captioner, data, options, group_videos(options.keyframes, captioner.batch_size))


def test_captions_of_keyframes(data: Path) -> None:
    result = run(worker(Grey(), data), [row("0.mp4"), row("1.mp4")])
    assert not result.failures
    assert [row["text"] for row in result.rows] == ["grey 60", "grey 140", "grey 220"] * 2
    assert [(row["caption"], row["frame"]) for row in result.rows[:3]] == [(0, 1), (1, 3), (2, 5)]
    assert [row["time"] for row in result.rows[:3]] == pytest.approx([0.1, 0.3, 0.5])
    assert set(result.seconds) == {"read", "compute"}


def test_keyframes_of_a_segment(data: Path) -> None:
    name = "0.mp4#0.3-0.6"
    result = run(worker(Grey(), data, keyframes=1), [row(name, start=0.3, end=0.6)])
    assert [(row["text"], row["frame"], row["video_id"]) for row in result.rows] == [("grey 180", 1, name)]
    assert result.rows[0]["time"] == pytest.approx(0.4)


@pytest.mark.medium
def test_batches_go_across_videos_and_depend_on_the_shard_alone(data: Path) -> None:
    """Neither the threads nor where the shard is parted show in what shares a batch."""
    rows = [row(f"{n}.mp4") for n in range(5)]
    seen, said = [], []
    for threads in (1, 4, 2):
        captioner = Grey(batch_size=4)
        said.append(run(worker(captioner, data, decode_threads=threads), rows).rows)
        seen.append(captioner.batches)
    assert [len(batch) for batch in seen[0]] == [4, 4, 4, 3]
    captioner = Grey(batch_size=4)
    parted = [Unit(7, rows[:4], 0, whole=False), Unit(7, rows[4:], 4, whole=False)]
    results = [
        event for part in parted for event in worker(captioner, data).run(part) if isinstance(event, ShardResult)
    ]
    seen.append(captioner.batches)
    said.append([row for result in results for row in result.rows])
    assert all(each == seen[0] for each in seen) and all(each == said[0] for each in said)


@given(keyframes=st.integers(1, 40), batch_size=st.integers(1, 300))
def test_a_group_of_videos_fills_its_batches(keyframes: int, batch_size: int) -> None:
    count = group_videos(keyframes, batch_size)
    batches = -(-count * keyframes // batch_size)
    assert count * keyframes >= 0.9 * batches * batch_size
    assert count <= max(10, batch_size // keyframes) + 10  # and a shard can be parted among many


def test_a_broken_video_costs_itself_only(data: Path) -> None:
    rows = [row("0.mp4"), row("text.mp4"), row("none.mp4"), row("1.mp4")]
    result = run(worker(Grey(batch_size=5), data), rows)
    assert {row["video_id"] for row in result.rows} == {"0.mp4", "1.mp4"}
    failed = {row["video_id"]: row for row in result.failures}
    assert failed["text.mp4"]["error"] == "NotAVideo" and failed["none.mp4"]["error"] == "UnreadableFile"
    assert all(row["stage"] == "caption" and row["message"] for row in result.failures)


def test_empty_captions_are_dropped_and_none_at_all_is_a_failure(data: Path) -> None:
    result = run(worker(Grey(silent=("grey 0", "grey 140")), data), [row("0.mp4"), row("dark.mp4", frames=3)])
    assert [(row["caption"], row["text"], row["frame"]) for row in result.rows] == [
        (0, "grey 60", 1),
        (1, "grey 220", 5),
    ]
    assert [(row["video_id"], row["error"]) for row in result.failures] == [("dark.mp4", "NoCaption")]
    assert "empty" in result.failures[0]["message"]


def test_a_failing_batch_is_tried_one_by_one(data: Path) -> None:
    captioner = Grey(batch_size=6, bad=("grey 0",))
    rows = [row("0.mp4"), row("dark.mp4", frames=3), row("1.mp4")]
    result = run(worker(captioner, data), rows)
    assert [(row["video_id"], row["error"]) for row in result.failures] == [("dark.mp4", "RuntimeError")]
    assert "chokes" in result.failures[0]["message"]
    assert [row["video_id"] for row in result.rows] == ["0.mp4"] * 3 + ["1.mp4"] * 3
    assert [len(batch) for batch in captioner.batches] == [6, *[1] * 6, 3]


def test_an_unusable_model_stops_the_stage(data: Path) -> None:
    captioner = Grey()
    captioner.caption = lambda frames: (_ for _ in ()).throw(UserError("too large"))  # type: ignore[method-assign]
    with pytest.raises(UserError, match="too large"):
        run(worker(captioner, data), [row("0.mp4"), row("1.mp4")])


@pytest.mark.medium
def test_the_same_unit_gives_the_same_rows(data: Path) -> None:
    rows = [row(f"{n}.mp4") for n in range(3)]
    first, second = (run(worker(Grey(), data), rows) for _ in range(2))
    assert first.rows == second.rows and first.failures == second.failures


def test_oracle_decodes_nothing() -> None:
    rows = [row("no-such-file.mp4"), row("unlabelled.mp4", label_text=None)]
    result = run(RowWorker(OracleCaptioner(Oracle(template="a video of {}")), Clean()), rows)
    assert [(row["text"], row["frame"], row["time"]) for row in result.rows] == [("a video of spinning", None, None)]
    assert [(row["video_id"], row["error"]) for row in result.failures] == [("unlabelled.mp4", "NoLabel")]


def test_frames_of_one_size_share_a_batch(data: Path) -> None:
    captioner = Grey(batch_size=4)
    result = run(worker(captioner, data), [row(name) for name in ("0.mp4", "high0.mp4", "1.mp4", "high1.mp4")])
    assert captioner.heights == [[32] * 4, [32, 32, 64, 64], [64] * 4]
    assert [row["text"] for row in result.rows] == ["grey 60", "grey 140", "grey 220"] * 4


@pytest.mark.parametrize("claimed", [6, 600, 1])
@pytest.mark.parametrize("suffix", ["mp4", "avi"])  # which can be seeked, and which cannot
def test_keyframes_are_placed_among_the_frames_that_there_are(tmp_path: Path, suffix: str, claimed: int) -> None:
    codec = "libx264" if suffix == "mp4" else "mpeg4"
    write_video(tmp_path / f"a.{suffix}", frames=6, fps=10, codec=codec)
    result = run(worker(Grey(), tmp_path), [row(f"a.{suffix}", frames=claimed, duration=claimed / 10)])
    assert [row["frame"] for row in result.rows] == [1, 3, 5]
    assert [row["time"] for row in result.rows] == pytest.approx([0.1, 0.3, 0.5])
    assert len({row["text"] for row in result.rows}) == 3


@pytest.mark.medium
def test_random_keyframes_are_drawn_by_seed_and_video(data: Path) -> None:
    rows = [row(f"{n}.mp4") for n in range(5)]
    draws = []
    for seed in (0, 0, 1):
        result = run(worker(Grey(), data, keyframes=2, placing="random", seed=seed), rows)
        draws.append([row["frame"] for row in result.rows])
    assert draws[0] == draws[1] != draws[2]
    assert draws[0] == [frame for row in rows for frame in keyframe_indices(6, 2, seed_of(0, row["video_id"]))]
    assert len({tuple(draws[0][n : n + 2]) for n in range(0, 10, 2)}) > 1  # videos differ


class Dice(Grey):
    """Draws words: says the seed that a frame came with."""

    samples = True

    def caption_seeded(self, frames: list[Frame], seeds: list[int]) -> list[str]:
        self.batches.append([str(seed) for seed in seeds])
        return self.batches[-1]


@pytest.mark.medium
def test_a_frame_is_sampled_with_the_same_seed_in_any_batch(data: Path) -> None:
    rows = [row(f"{n}.mp4") for n in range(5)]
    said = []
    for size, chosen in ((4, rows), (7, rows), (2, rows[2:])):
        result = run(worker(Dice(batch_size=size), data), chosen)
        said.append({(row["video_id"], row["frame"]): row["text"] for row in result.rows})
    assert said[0] == said[1] and said[2].items() <= said[0].items()
    assert len(set(said[0].values())) == 15


@pytest.mark.medium
def test_what_cleaning_changed_is_recorded(data: Path) -> None:
    captioner = Grey()
    captioner.caption = lambda frames: [  # type: ignore[method-assign]
        {60: "arafed grey", 140: "arafed", 220: "plain"}.get(round(float(frame.mean()), -1), "arafed")
        for frame in frames
    ]
    rows = [row("0.mp4"), row("dark.mp4", frames=3)]
    result = run(worker(captioner, data, clean=Clean(enabled=True)), rows)
    assert [(row["caption"], row["text"], row["frame"]) for row in result.rows] == [(0, "grey", 1), (1, "plain", 5)]
    changes = result.side["changes.parquet"]
    table(changes, CHANGES)
    assert [(row["video_id"], row["caption"], row["before"], row["after"]) for row in changes] == [
        ("0.mp4", 0, "arafed grey", "grey"),
        ("0.mp4", None, "arafed", ""),
        *[("dark.mp4", None, "arafed", "")] * 3,
    ]
    assert "cleaning left nothing of 'arafed'" in result.failures[0]["message"]
    assert not run(worker(captioner, data), rows).side  # off by default


def test_units_are_slices_in_the_order_of_keys() -> None:
    rows = [row(f"{n}.mp4") for n in range(10)]
    units = caption_units(rows, 4)
    assert [len(unit.rows) for unit in units] == [4, 4, 2] and [unit.shard for unit in units] == [0, 1, 2]
    keys = [row["key"] for unit in units for row in unit.rows]
    assert keys == sorted(row["key"] for row in rows)
    assert caption_units(rows[::-1], 4) == units


def test_map_ahead_keeps_order_bounds_and_errors() -> None:
    started: list[int] = []

    def work(n: int) -> int:
        started.append(n)
        time.sleep(0.01 * (n % 3))
        if n == 4:
            raise ValueError("four")
        return n * n

    seen = []
    for n, value in map_ahead(work, range(12), threads=4, ahead=5):
        assert len(started) <= n + 1 + 5
        seen.append(value)
    assert isinstance(seen[4], ValueError) and seen[:4] + seen[5:] == [n * n for n in range(12) if n != 4]
    assert list(map_ahead(work, [], threads=2, ahead=3)) == []


def test_map_ahead_works_while_its_consumer_does() -> None:
    main, names = threading.current_thread().name, []
    results = map_ahead(lambda n: names.append(threading.current_thread().name), range(4), threads=2, ahead=2)
    next(results)
    time.sleep(0.2)  # the consumer is busy; what follows is done meanwhile
    assert len(names) >= 3 and main not in names


def test_streams_ahead_keeps_order_bounds_and_errors() -> None:
    """Several items at once, in threads; the consumer sees them one after another."""
    made: list[tuple[int, int]] = []

    def source(item: int) -> Iterator[int]:
        for n in range(4):
            made.append((item, n))
            yield 10 * item + n
        if item == 3:
            raise ValueError("the end of three")

    found = []
    for item, values in streams_ahead(source, range(9), threads=2, ahead=2):
        time.sleep(0.02)
        assert all(begun <= item + 3 for begun, _ in made)  # twice the threads, this one included
        assert sum(begun > item for begun, _ in made) <= 2 * 2 * 3
        try:
            found.append(list(values))
        except ValueError:
            found.append([])
    assert found == [[] if item == 3 else [10 * item + n for n in range(4)] for item in range(9)]
    assert list(streams_ahead(source, [], threads=2, ahead=2)) == []


def test_streams_ahead_works_on_several_items_at_once() -> None:
    meeting = threading.Barrier(3)

    def source(item: int) -> Iterator[int]:
        meeting.wait(timeout=30)
        yield item

    assert [list(values) for _, values in streams_ahead(source, range(3), threads=3, ahead=1)] == [[0], [1], [2]]


def test_streams_ahead_makes_nothing_that_is_not_wanted() -> None:
    """Neither the rest of an item that its consumer leaves, nor anything after the consumer has stopped."""
    made: list[tuple[int, int]] = []

    def source(item: int) -> Iterator[int]:
        for n in range(1000):
            made.append((item, n))
            yield n

    items = streams_ahead(source, range(1000), threads=2, ahead=2)
    assert [next(next(items)[1]) for _ in range(3)] == [0, 0, 0]
    items.close()
    assert len(made) < 40


def test_an_item_of_closed_streams_ends_though_it_was_never_begun() -> None:
    hold, begun = threading.Event(), threading.Event()

    def source(item: int) -> Iterator[int]:
        begun.set()
        hold.wait(30)
        yield item

    items = streams_ahead(source, range(2), threads=1, ahead=1)
    next(items)
    begun.wait(30)
    _, second = next(items)  # the only thread still works on the first one
    threading.Timer(0.1, hold.set).start()
    items.close()
    ended = threading.Thread(target=list, args=(second,), daemon=True)
    ended.start()
    ended.join(10)
    assert not ended.is_alive()
