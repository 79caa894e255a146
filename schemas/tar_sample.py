"""Samples of a shard, read from a stranger's tar: plain, regular files only, grouped by key as webdataset does.

webdataset's own reader opens compressed tars too, and tarfile expands sparse members: a few megabytes would then fill
the memory. Here nothing is larger than the file that it comes from.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO

Fields = dict[str, bytes]  # field, such as "scores.npy" -> content


def slice_samples(data: bytes) -> list[tuple[str, Fields]]:
    """The samples of a slice of a tar. Raises ValueError, see iter_samples."""
    return list(iter_samples(io.BytesIO(data)))


def iter_samples(file: IO[bytes]) -> Iterator[tuple[str, Fields]]:
    """(key, fields) of all samples, in order. Raises ValueError for what is no whole, plain tar of samples."""
    key, fields = "", Fields()
    for name, content in _members(file):
        found, _, field = name.partition(".")
        if found != key and fields:
            yield key, fields
            fields = {}
        key, field = found, field.lower()
        if field in fields:
            raise ValueError(f"{name} is there twice")
        fields[field] = content
    if fields:
        yield key, fields


def _members(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:  # with the colon: compressed tars are none
            for member in tar:
                if "/" in member.name or "\\" in member.name:
                    raise ValueError(f"member {member.name!r} names a folder: this is no shard of tgmae")
                if not member.isreg() or member.issparse():
                    raise ValueError(f"member {member.name!r} is no plain file")
                content = tar.extractfile(member)
                assert content is not None, "a regular file has content"
                data = content.read()
                if len(data) != member.size:
                    raise ValueError(f"{member.name} ends {member.size - len(data)} bytes early")
                yield member.name, data
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise ValueError(str(error)) from error
