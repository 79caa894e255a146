"""Shards: WebDataset tars with known byte offsets. The same samples give the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from webdataset.writer import TarWriter

from schemas.atomic import replacing
from schemas.errors import UserError
from schemas.tar_sample import Fields, iter_samples

_KEY = re.compile(r"[A-Za-z0-9_-]+")  # webdataset cuts keys at the first dot
_FIELD = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")  # webdataset lower-cases what it reads


class ShardWriter:
    """Appends samples to an open tar."""

    def __init__(self, file: IO[bytes]) -> None:
        self._tar = TarWriter(file, user="tgmae", group="tgmae", mode=0o644, encoder=False, mtime=0.0)
        self._keys: set[str] = set()

    def add(self, key: str, fields: Fields) -> tuple[int, int]:
        """Byte offset of the sample's first header, and length up to the end of its last member's padding.

        Raises ValueError for a key or field that webdataset would read back otherwise, or a key used before.
        """
        if not _KEY.fullmatch(key) or key.startswith("__"):
            raise ValueError(f"{key!r} is not a key: letters, digits, '_' and '-', not beginning with '__'")
        bad = [name for name in fields if not _FIELD.fullmatch(name) or name.startswith("_")]
        if bad or not fields:
            raise ValueError(f"sample {key!r}: {bad[0]!r} is not a field" if bad else f"sample {key!r} has no fields")
        if key in self._keys:
            raise ValueError(f"key {key!r} is in the shard already")
        self._keys.add(key)
        offset = self._tar.tarstream.offset
        self._tar.write({"__key__": key, **fields})
        return offset, self._tar.tarstream.offset - offset

    def close(self) -> None:
        self._tar.close()


@contextmanager
def new_shard(path: Path) -> Iterator[ShardWriter]:
    """A shard that appears under its name when the block ends well, and not at all otherwise.

    A shard without samples is an empty tar: numbers have no gaps, and readers find what the index promises.
    """
    with replacing(path) as partial, open(partial, "wb") as file:
        writer = ShardWriter(file)
        try:
            yield writer
        finally:
            writer.close()


def write_shard(path: Path, samples: Iterable[tuple[str, Fields]]) -> list[tuple[int, int]]:
    """Writes (key, fields) samples; returns each one's (offset, length), so that pread() of it parses as a tar."""
    with new_shard(path) as shard:
        return [shard.add(key, fields) for key, fields in samples]


def read_sample(source: bytes | IO[bytes], offset: int, length: int, key: str | None = None) -> Fields:
    """One sample of a shard, given as its bytes or as a file open for reading.

    Raises UserError when there is not exactly one whole sample there, or one with another key.
    """
    if isinstance(source, bytes):
        data = source[offset : offset + length]
    else:
        source.seek(offset)
        data = source.read(length)
    where = f"{getattr(source, 'name', 'shard')} at byte {offset}"
    if len(data) != length:
        raise UserError(f"{where}: {len(data)} bytes instead of {length}: the shard was cut short or replaced")
    samples = list(_samples(io.BytesIO(data), where))
    if len(samples) != 1:
        raise UserError(f"{where}: {len(samples)} samples instead of one: index and shard do not belong together")
    found, fields = samples[0]
    if key is not None and found != key:
        raise UserError(f"{where}: holds {found!r}, not {key!r}: index and shard do not belong together")
    return fields


def iter_shard(path: Path) -> Iterator[tuple[str, Fields]]:
    """All samples of a shard, (key, fields), in order. Raises UserError when it is no whole tar of samples."""
    with open(path, "rb") as file:
        yield from _samples(file, str(path))


def _samples(file: IO[bytes], where: str) -> Iterator[tuple[str, Fields]]:
    try:
        yield from iter_samples(file)
    except ValueError as error:
        raise UserError(f"{where}: not a whole tar of samples: {error}") from error
