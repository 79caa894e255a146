"""What a run that was stopped has left: finished shards, finished parts of others, and how parts become a shard.

`.parts/NNNNNN.json` is the result of a shard; `.parts/NNNNNN/` holds results and tars of parts until it is made.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pipeline.runtime.units import Made, Row, ShardResult, Unit
from schemas.atomic import replacing, sha256_file, write_bytes, write_json
from schemas.errors import UserError
from schemas.stage import PARTS
from schemas.workspace import shard_name


def keep_result(folder: Path, result: ShardResult, name: str | None = None) -> None:
    """Records that a shard, or the part of that name, is done, with the sizes of its files."""
    sizes = {file: (folder / file).stat().st_size for file in result.files}
    path = folder / PARTS / f"{name or f'{result.shard:06d}'}.json"
    write_json(path, {**result.to_json(), "sizes": sizes})


def kept_results(folder: Path) -> dict[int, ShardResult]:
    """By shard, the results whose files are all there with their sizes."""
    results = {int(path.stem): _kept(folder, path) for path in (folder / PARTS).glob("[0-9]*.json")}
    return {shard: result for shard, result in results.items() if result is not None}


def kept_parts(folder: Path, units: Sequence[Unit]) -> dict[int, list[Made]]:
    """By shard, the parts of these shards that are done, in their order; all that is no such part is removed."""
    found: dict[int, list[Made]] = {}
    shards = {unit.shard: unit for unit in units}
    for place in sorted(path for path in (folder / PARTS).glob("[0-9]*") if path.is_dir()):
        unit, stop, known = shards.get(int(place.name)), 0, set[Path]()
        for path in sorted(place.glob("*.json")) if unit is not None else ():
            first, end = map(int, path.stem.split("-"))
            result = _kept(folder, path)
            if unit is not None and result is not None and stop <= first < end <= len(unit.rows):
                part = Unit(unit.shard, unit.rows[first:end], first, whole=False)
                found.setdefault(unit.shard, []).append(Made(part, result))
                known |= {path, *(folder / name for name in result.files)}
                stop = end
        for path in [*place.iterdir()]:
            if path not in known:
                path.unlink()
        if not known:
            place.rmdir()
    return found


def _kept(folder: Path, path: Path) -> ShardResult | None:
    try:
        part: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError:  # damaged: made again
        return None
    sizes = part.pop("sizes", {})
    files = {name: folder / name for name in part["files"]}
    whole = all(file.is_file() and file.stat().st_size == sizes.get(name) for name, file in files.items())
    return ShardResult(**part) if whole else None


def joined(folder: Path, parts: Sequence[Made]) -> ShardResult:
    """Makes the shard of all its parts, byte for byte what one worker would have made of it, and removes them."""
    parts = sorted(parts, key=lambda part: part.unit.first)
    shard, files = parts[0].unit.shard, {name: digest for part in parts for name, digest in part.result.files.items()}
    tars = [part.unit.tar for part in parts if files.pop(part.unit.tar, None)]
    rows = [row for part in parts for row in part.result.rows]
    if tars:
        lengths = [max((row["offset"] + row["length"] for row in part.result.rows), default=0) for part in parts]
        path = folder / shard_name(shard)
        for name in files:  # which the parts share, and need until the shard is kept
            write_bytes(folder / Path(name).name, (folder / name).read_bytes())
        places = join_shards(path, [(folder / tar, length) for tar, length in zip(tars, lengths, strict=True)])
        files = {path.name: sha256_file(path), **{Path(name).name: digest for name, digest in files.items()}}
        rows = [
            {**row, "offset": row["offset"] + place}
            for place, part in zip(places, parts, strict=True)
            for row in part.result.rows
        ]
    seconds: Counter[str] = Counter()
    side: dict[str, list[Row]] = {}
    for part in parts:
        seconds.update(part.result.seconds)
        for name, more in part.result.side.items():
            side.setdefault(name, []).extend(more)
    failures = [row for part in parts for row in part.result.failures]
    result = ShardResult(shard, rows, failures, files, dict(seconds), side)
    keep_result(folder, result)
    shutil.rmtree(folder / PARTS / f"{shard:06d}")
    return result


class Growing:
    """Shards on their way: takes what is made, keeps it, and joins a shard when all of it is there.

    Joined in a thread, so that no worker waits for its next part while a shard is written.
    """

    def __init__(self, folder: Path, units: Sequence[Unit]) -> None:
        self._folder, self._units = folder, {unit.shard: unit for unit in units}
        self._parts = kept_parts(folder, units)
        self._joiner = ThreadPoolExecutor(1)
        self._joining: dict[int, Future[ShardResult]] = {}
        self.kept = [part for parts in self._parts.values() for part in parts]  # of earlier runs
        for shard in self._parts:
            self._join_whole(shard)

    def __enter__(self) -> Growing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._joiner.shutdown(cancel_futures=True)

    @property
    def places(self) -> Mapping[int, list[tuple[int, int]]]:
        """By shard, the parts that need not be made: first row, row after the last."""
        return {
            shard: [(part.unit.first, part.unit.first + len(part.unit.rows)) for part in parts]
            for shard, parts in self._parts.items()
        }

    def add(self, made: Made) -> None:
        shard = made.unit.shard
        if made.unit.whole:
            keep_result(self._folder, made.result)
            self._joining[shard] = Future()
            self._joining[shard].set_result(made.result)
            return
        keep_result(self._folder, made.result, made.unit.name)
        self._parts.setdefault(shard, []).append(made)
        self._join_whole(shard)

    def finished(self, *, wait: bool = False) -> Iterator[ShardResult]:
        """The shards that have become whole; `wait`: also those that are being joined."""
        for shard, future in list(self._joining.items()):
            if wait or future.done():
                yield future.result()
                del self._joining[shard]
                self._parts.pop(shard, None)

    def _join_whole(self, shard: int) -> None:
        parts = self._parts[shard]
        if sum(len(part.unit.rows) for part in parts) == len(self._units[shard].rows):
            self._joining[shard] = self._joiner.submit(joined, self._folder, parts)


def join_shards(path: Path, shards: Sequence[tuple[Path, int]]) -> list[int]:
    """Writes one shard of the samples of others, (file, bytes up to the end of its last sample), in order.

    The bytes are those that one writer of all samples would have written. Returns where each one's samples begin.
    """
    places: list[int] = []
    with replacing(path) as partial, open(partial, "wb") as out:
        for source, length in shards:
            places.append(out.tell())
            with open(source, "rb") as file:
                file_end = file.seek(0, io.SEEK_END)
                if file_end < length:
                    raise UserError(f"{source}: {file_end} bytes instead of {length}: the part was cut short")
                file.seek(0)
                _copy(file, out, length)
        # Two empty blocks end a tar; its size is whole records.
        end = -(-(out.tell() + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
        out.truncate(end)
    return places


def _copy(source: IO[bytes], target: IO[bytes], length: int) -> None:
    while length and (data := source.read(min(length, 1 << 22))):
        target.write(data)
        length -= len(data)
