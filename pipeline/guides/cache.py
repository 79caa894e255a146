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
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.guides import Floats
from pipeline.video import VideoError

MEMBER = "codes.bin"  # of a sample

Array = np.ndarray[Any, np.dtype[Any]]


class BrokenFeatures(VideoError):
    """What the cache holds of a video cannot be read."""


@dataclass(frozen=True)
class Basis:
    """What the codes of a shard are coordinates in."""

    mean_D: Floats
    axes_Dd: Array  # float16, orthonormal columns

    def save(self) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, mean=self.mean_D, axes=self.axes_Dd)
        return buffer.getvalue()


def load_basis(path: Path) -> Basis:
    with np.load(path, allow_pickle=False) as file:
        return Basis(file["mean"], file["axes"])


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
    lost = 1 - np.cumsum(variances) / max(variances.sum(), np.finfo(np.float64).tiny)
    keep = int(np.argmax(lost <= 1 - kept)) + 1
    return Basis(mean_D.astype(np.float32), np.ascontiguousarray(axes[:, :keep].astype(np.float16)))


def pack(chunks: Iterable[Floats], name: str, basis: Basis, bits: int) -> bytes:
    """Embeddings of a video, chunks [F, gh, gw, D], as a line of JSON and a deflated stream of int8 [d, F, gh, gw].

    A chunk has a step of its own, by its greatest coordinate. `name` is the file of the basis.
    Raises ValueError for an embedding that is NaN or infinite, or when there is no chunk.
    """
    header: dict[str, Any] = {"basis": name, "dims": basis.axes_Dd.shape[1], "chunks": []}
    deflate = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_FILTERED)  # nothing repeats: Huffman codes do the work
    body = []
    for features in chunks:
        if not np.isfinite(features).all():
            raise ValueError("a feature is NaN or infinite: the encoder or the video is broken")
        along = np.moveaxis((features - basis.mean_D) @ basis.axes_Dd.astype(np.float32), -1, 0)
        step = np.float32(np.abs(along).max() / (2 ** (bits - 1) - 1)) or np.float32(1)
        codes = np.rint(along / step).astype(np.int8)
        header["grid"] = codes.shape[2:]
        header["chunks"].append([codes.shape[1], float(step)])
        body.append(deflate.compress(np.diff(codes, axis=1, prepend=np.int8(0)).tobytes()))  # wraps, as int8 does
    if not body:
        raise ValueError("no frame to embed")
    return b"".join([json.dumps(header, sort_keys=True).encode(), b"\n", *body, deflate.flush()])


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
        try:
            line, _, body = data.partition(b"\n")
            header = json.loads(line)
            dims, (gh, gw), chunks = header["dims"], header["grid"], header["chunks"]
            stored = np.frombuffer(zlib.decompress(body), np.int8)
            basis = self._basis(header["basis"])
        except (ValueError, KeyError, TypeError, OSError, zlib.error) as error:
            raise BrokenFeatures(f"the cached features cannot be read: {error}") from error
        scored, cells = sum(count for count, _ in chunks), dims * gh * gw
        if scored != -(-frames // stride) or len(stored) != scored * cells:
            raise BrokenFeatures(f"features of {scored} frames, {len(stored)} bytes; the index says {frames} frames")
        for count, step in chunks:
            part, stored = stored[: count * cells], stored[count * cells :]
            yield Codes(basis, step, part.reshape(dims, count, gh, gw).cumsum(1, dtype=np.int8))

    def _basis(self, name: str) -> Basis:
        if name not in self._bases:
            self._bases = {name: load_basis(self._folder / name)}
        return self._bases[name]
