"""The feature cache (`text.cache`): the embeddings of a video's cells, small enough to keep, for any caption to come.

An embedding is kept as its coordinates along the directions in which the embeddings of its shard vary most, as
integers of at most 8 bits in steps of one size for all directions. Then score = text . mean + step * (text . axes) .
codes: the text tower is all that a new caption set needs. Steps of one size are what a given error costs least with
(reverse water-filling), where what follows codes a small number in fewer bits: the codes of a frame are stored as
differences to those of the frame before, deflated.

Legend: D embedding width, d directions kept, F frames, gh x gw cells, C captions.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt

from pipeline.guides import Floats
from pipeline.media.video import VideoError
from schemas.shards import npy_array

MEMBER = "codes.bin"  # of a sample
MOST_DIMS, MOST_CELLS = 4096, 512  # the latter along a side
MOST_BASIS = 2 * MOST_DIMS**2 + 1024  # bytes
MOST_CHUNK = 1 << 28  # bytes of a chunk of codes in memory

Array = np.ndarray[Any, np.dtype[Any]]


class BrokenFeatures(VideoError):
    """What the cache holds of a video cannot be read."""


class Header(BaseModel):
    """The line before the codes. It comes out of a tar: nothing in it is believed that is not checked."""

    basis: Annotated[str, Field(pattern=r"^[0-9]{6}\.basis\.npz$")]  # a file next to the tar
    dims: Annotated[int, Field(ge=1, le=MOST_DIMS)]
    grid: tuple[Annotated[int, Field(ge=1, le=MOST_CELLS)], Annotated[int, Field(ge=1, le=MOST_CELLS)]]
    chunks: list[tuple[PositiveInt, Annotated[FiniteFloat, Field(gt=0)]]]  # frames, and the step of their codes


@dataclass(frozen=True)
class Basis:
    """Principal directions of a shard's embeddings: its codes are coordinates along them."""

    mean_D: Floats
    axes_Dd: Array  # float16, orthonormal columns

    def save(self) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, mean=self.mean_D, axes=self.axes_Dd)
        return buffer.getvalue()


def load_basis(path: Path) -> Basis:
    """Raises ValueError, OSError or BadZipFile for a file that is not what `Basis.save` writes."""
    try:
        with zipfile.ZipFile(path) as arrays:
            mean_D, axes_Dd = (_unzipped(arrays, name) for name in ("mean.npy", "axes.npy"))
    except (EOFError, KeyError, TypeError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path.name} is not a valid basis file: {error}") from error
    if axes_Dd.ndim != 2 or mean_D.shape != axes_Dd.shape[:1] or {mean_D.dtype.kind, axes_Dd.dtype.kind} != {"f"}:
        raise ValueError(f"{path.name} is not a valid basis file: a mean {mean_D.shape} and directions {axes_Dd.shape}")
    return Basis(mean_D, axes_Dd)


def _unzipped(arrays: zipfile.ZipFile, name: str) -> Array:
    """An array of an npz, never more in memory than a basis can have."""
    size = arrays.getinfo(name).file_size
    if size > MOST_BASIS:
        raise ValueError(f"{name} has {size} bytes")
    with arrays.open(name) as file:
        return npy_array(file.read(MOST_BASIS + 1))


def fit_basis(sample: Iterable[Floats], kept: float) -> Basis | None:
    """The mean of embeddings [..., D], and as many principal directions as hold that share of the variance.

    What is not finite is left out; None where nothing is left. Deterministic: moments in float64, in the order given.
    """
    count, total_D, second_DD = 0, np.float64(0), np.float64(0)
    for features in sample:
        rows_ND = features.reshape(-1, features.shape[-1]).astype(np.float64)
        rows_ND = rows_ND[np.isfinite(rows_ND).all(1)]
        count, total_D, second_DD = count + len(rows_ND), total_D + rows_ND.sum(0), second_DD + rows_ND.T @ rows_ND
    if not count:
        return None
    mean_D = total_D / count
    variances, axes = np.linalg.eigh(second_DD / count - np.outer(mean_D, mean_D))
    variances, axes = variances[::-1].clip(0), axes[:, ::-1]
    wanted = kept * variances.sum()
    keep = min(int((np.cumsum(variances) < wanted).sum()) + 1, len(variances))  # the sum may be rounded below `wanted`
    return Basis(mean_D.astype(np.float32), np.ascontiguousarray(axes[:, :keep].astype(np.float16)))


def pack(chunks: Iterable[Floats], name: str, basis: Basis, bits: int) -> bytes:
    """Embeddings of a video, chunks [F, gh, gw, D], as a line of JSON and a deflated stream of int8 [d, F, gh, gw].

    A chunk has a step of its own, by its greatest coordinate. `name` is the file of the basis.
    Raises ValueError for an embedding that is NaN or infinite, or when there is no chunk.
    """
    header = Header(basis=name, dims=basis.axes_Dd.shape[1], grid=(1, 1), chunks=[])
    deflate = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_FILTERED)  # nothing repeats: Huffman codes do the work
    body = []
    for features in chunks:
        if not np.isfinite(features).all():
            raise ValueError("a feature is NaN or infinite: the encoder or the video is broken")
        along = np.moveaxis((features - basis.mean_D) @ basis.axes_Dd.astype(np.float32), -1, 0)
        step = np.float32(np.abs(along).max() / (2 ** (bits - 1) - 1)) or np.float32(1)
        codes = np.rint(along / step).astype(np.int8)
        header.grid = codes.shape[2], codes.shape[3]
        header.chunks.append((codes.shape[1], float(step)))
        body.append(deflate.compress(np.diff(codes, axis=1, prepend=np.int8(0)).tobytes()))  # wraps, as int8 does
    if not body:
        raise ValueError("no frame to embed")
    return b"".join([header.model_dump_json().encode(), b"\n", *body, deflate.flush()])


def inflated(body: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """The stream in parts of exactly these sizes, one in memory at a time.

    Raises ValueError when there are fewer bytes or more, or when the stream lacks its end, where its checksum is.
    """
    inflate = zlib.decompressobj()
    for size in sizes:
        if size > MOST_CHUNK:
            raise ValueError(f"a chunk of {size} bytes")
        part = inflate.decompress(body, size)
        while len(part) < size and (inflate.unconsumed_tail or not inflate.eof):
            more = inflate.decompress(inflate.unconsumed_tail, size - len(part))
            if not more:
                break
            part += more
        body = inflate.unconsumed_tail
        if len(part) != size:
            raise ValueError(f"{len(part)} bytes where {size} are due")
        yield part
    if inflate.decompress(body, 1) or not inflate.eof:
        raise ValueError("more bytes than are due, or no end")


@dataclass(frozen=True)
class Codes:
    """Some frames of a video, out of the cache."""

    basis: Basis
    step: float
    codes_dFhw: Array  # int8

    def scores(self, text_CD: Floats) -> Floats:
        """Cosines with texts of length 1, but for what the cache has lost: float32 [C, F, gh, gw]."""
        axes_Cd = text_CD @ self.basis.axes_Dd.astype(np.float32) * np.float32(self.step)
        flat = axes_Cd @ self.codes_dFhw.reshape(len(self.codes_dFhw), -1).astype(np.float32)
        scores: Floats = flat + (text_CD @ self.basis.mean_D)[:, None]
        return scores.reshape(-1, *self.codes_dFhw.shape[1:])


class CachedFeatures:
    """A Reader of the cache that lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bases: dict[str, Basis] = {}  # the last

    def __call__(self, data: bytes, stride: int, frames: int) -> Iterator[Codes]:
        """Raises BrokenFeatures when the bytes are not those of a video of so many frames."""
        line, _, body = data.partition(b"\n")
        try:
            header = Header.model_validate_json(line)
            basis = self._basis(header.basis)
            cells = header.dims * math.prod(header.grid)
            scored = sum(count for count, _ in header.chunks)
            if scored != -(-frames // stride) or header.dims != basis.axes_Dd.shape[1]:
                raise ValueError(f"{scored} frames of {header.dims} numbers, of a video of {frames} frames")
            parts = inflated(body, [count * cells for count, _ in header.chunks])
            for (count, step), part in zip(header.chunks, parts, strict=True):
                codes = np.frombuffer(part, np.int8).reshape(header.dims, count, *header.grid)
                yield Codes(basis, step, codes.cumsum(1, dtype=np.int8))
        except (ValueError, OSError, zlib.error, zipfile.BadZipFile) as error:
            raise BrokenFeatures(f"the cached features cannot be read: {' '.join(str(error).split())}") from error

    def _basis(self, name: str) -> Basis:
        basis = self._bases.get(name) or load_basis(self._folder / name)
        self._bases = {name: basis}  # whole at any moment: threads read for the same guide
        return basis
