"""A stranger's tar: what is read is what lies there, and nothing grows in memory."""

from __future__ import annotations

import io
import lzma
import tarfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.shards import npy_array, npy_bytes
from schemas.tar_sample import slice_samples

NAMES = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)


def tar(members: list[tuple[str, bytes]], **kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = kind.get("type", tarfile.REGTYPE)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, st.binary(max_size=700), min_size=1, max_size=3), max_size=4))
def test_samples_come_back(samples: dict[str, dict[str, bytes]]) -> None:
    members = [(f"{key}.{field}", data) for key, fields in samples.items() for field, data in fields.items()]
    assert slice_samples(tar(members)) == list(samples.items())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lzma.compress(tar([("a.mp4", bytes(50_000_000))])), None),
        (tar([("../a.mp4", b"x")]), "names a folder"),
        (tar([("a.mp4", b"x")], type=tarfile.SYMTYPE), "no plain file"),
        (tar([("a.mp4", b"x"), ("a.mp4", b"y")]), "twice"),
        (tar([("a.mp4", b"x" * 5000)])[:2048], None),
        (b"<html>not found</html>", None),
    ],
)
def test_what_is_no_plain_tar_of_samples_is_refused(data: bytes, reason: str | None) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=reason):
            slice_samples(data)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_header_that_promises_more_than_there_is_takes_no_memory() -> None:
    data = npy_bytes(np.zeros((2, 3), np.uint8))
    bomb = data.replace(b"(2, 3)", b"(2, 9)")
    for wrong in (bomb, data[:-1], data + b"x", b"PK\x03\x04 an npz", data.replace(b"|u1", b"|u9")):
        with pytest.raises(ValueError, match=r"does not fit|magic|descr"):
            npy_array(wrong)
    assert npy_array(data).shape == (2, 3)
