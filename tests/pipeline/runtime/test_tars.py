"""Shards: readable by plain webdataset, by offset, and never half there."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import webdataset as wds

from pipeline.runtime.tars import iter_shard, read_sample, write_shard
from schemas.errors import UserError

# webdataset leaves the tars it has read to the garbage collector
leaves_open = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")

SAMPLES = [(f"{number:016x}", {"mp4": bytes([number]) * (700 * number), "json": b"{}"}) for number in range(5)]


@leaves_open
def test_webdataset_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "000000.tar"
    write_shard(path, SAMPLES)
    read = list(wds.WebDataset(str(path), shardshuffle=False))
    assert [(sample["__key__"], sample["mp4"], sample["json"]) for sample in read] == [
        (key, fields["mp4"], fields["json"]) for key, fields in SAMPLES
    ]


def test_offsets_cut_out_whole_samples(tmp_path: Path) -> None:
    path = tmp_path / "000000.tar"
    places = write_shard(path, SAMPLES)
    assert places[0][0] == 0
    assert all(offset + length == following for (offset, length), (following, _) in itertools.pairwise(places))
    data = path.read_bytes()
    with open(path, "rb") as file:
        for (key, fields), (offset, length) in zip(SAMPLES, places, strict=True):
            assert read_sample(file, offset, length, key) == read_sample(data, offset, length) == fields
            with tarfile.open(fileobj=io.BytesIO(data[offset : offset + length])) as tar:
                assert tar.getnames() == [f"{key}.json", f"{key}.mp4"]
    assert list(iter_shard(path)) == [(key, dict(sorted(fields.items()))) for key, fields in SAMPLES]


def test_same_samples_same_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    write_shard(tmp_path / "b.tar", [(key, dict(reversed(fields.items()))) for key, fields in SAMPLES])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@leaves_open
def test_an_empty_shard_is_an_empty_tar(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "0.tar", []) == []
    assert list(iter_shard(tmp_path / "0.tar")) == []
    write_shard(tmp_path / "1.tar", SAMPLES)
    both = wds.WebDataset([str(tmp_path / "0.tar"), str(tmp_path / "1.tar")], shardshuffle=False)
    assert len(list(both)) == len(SAMPLES)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield SAMPLES[0]
        raise RuntimeError("the second cannot be made")

    with pytest.raises(RuntimeError, match="second"):
        write_shard(tmp_path / "0.tar", failing())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "fields"),
    [("a.b", {"x": b""}), ("a/b", {"x": b""}), ("", {"x": b""}), ("__a__", {"x": b""}), ("a", {}), ("a", {"X": b""}),
     ("a", {"../x": b""}), ("a", {"_x": b""}), ("0" * 16, {"x": b""})],
)  # fmt: skip
def test_names_that_would_not_read_back_are_refused(tmp_path: Path, key: str, fields: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"key|field"):
        write_shard(tmp_path / "0.tar", [("0" * 16, {"x": b""}), (key, fields)])


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    places = write_shard(path, SAMPLES)
    data = path.read_bytes()
    (first, first_length), (second, second_length) = places[2:4]
    with pytest.raises(UserError, match="not 'other'"):
        read_sample(data, first, first_length, "other")
    with pytest.raises(UserError, match="2 samples instead of one"):
        read_sample(data, first, first_length + second_length)
    with pytest.raises(UserError, match="was cut short or replaced"):
        read_sample(data[: second + 100], second, second_length)
    with pytest.raises(UserError, match="at byte 7"):
        read_sample(data, 7, 5000)
    with pytest.raises(UserError):
        read_sample(data, first, first_length - 1024)
    (tmp_path / "text.tar").write_text("no tar at all" * 100)
    with pytest.raises(UserError, match="not a whole tar"):
        list(iter_shard(tmp_path / "text.tar"))
    (tmp_path / "cut.tar").write_bytes(data[: second + 700])
    with pytest.raises(UserError, match="not a whole tar"):
        list(iter_shard(tmp_path / "cut.tar"))


def test_members_in_folders_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("../escape/a.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(json.dumps({}).encode()))
    with pytest.raises(UserError, match="names a folder"):
        list(iter_shard(path))
