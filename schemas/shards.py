"""The samples of clip shards and guide shards, and how a score map is stored.

A shard is an ordinary WebDataset tar, readable by anyone's loader. Clip sample: `KEY.json`, `KEY.mp4`.
Guide sample: `KEY.json`, `KEY.scores.npy`, and `KEY.text.npy` where the guide has text; a video without
a guide has only its `KEY.json`, with the reason, so that both tars hold the same keys in the same order.

Shapes: C captions (score maps) of a video, F scored frames, H x W grid cells, D text width.
"""

from __future__ import annotations

import io
import json
import math
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from schemas.errors import UserError

Array = np.ndarray[Any, Any]
# Widths of a video that decord 0.6 cannot give, whatever the height: found by trying every even one up to 140.
UNREADABLE_WIDTHS = frozenset({2, 4, 6, 8, 12, 16, 24, 48, 72})
LEVELS = 255  # of a stored score: one byte
MOST_STRIDE = 100_000  # frames between two scored ones


class ClipMeta(BaseModel):
    """`KEY.json` of a clip shard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    video_id: str
    frames: PositiveInt
    fps: Annotated[FiniteFloat, Field(gt=0)]
    width: PositiveInt  # of the stored video, pixels
    height: PositiveInt
    label: int | None
    label_text: str | None
    split: str
    lost: int = 0  # frames that the source should have and does not give; left out where there are none
    corrupt: int = 0  # frames that the decoder called corrupt; likewise

    @model_serializer(mode="wrap")
    def _brief(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = whole(self)
        return {name: value for name, value in fields.items() if value or name not in ("lost", "corrupt")}


class GuideMeta(BaseModel):
    """`KEY.json` of a guide shard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    video_id: str
    frames: PositiveInt  # of the stored video: F = ceil(frames / frame_stride)
    frame_stride: Annotated[int, Field(ge=1, le=MOST_STRIDE)]  # map f scores frame f * frame_stride
    captions: list[str] = []  # C texts, untrusted; empty for guides without text
    scale: list[Annotated[FiniteFloat, Field(ge=0)]] = []  # C: score = stored * scale + offset
    offset: list[FiniteFloat] = []
    points: bool = False  # cells overlap: a score is of a place, the cell's centre, not of the cell's area
    missing: str | None = None  # why there is no map


def quantize(scores: Array) -> tuple[Array, list[float], list[float]]:
    """Scores [C, F, H, W] float32 -> uint8 of the same shape, with scale [C] and offset [C].

    Linear between the least and the greatest score of each map: the error is at most half a step,
    (max - min) / 510. Scores closer than a step may tie; masks break ties by position.

    Raises ValueError when a score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a score is NaN or infinite: the encoder or the video is broken")
    low = scores.min(axis=(1, 2, 3)).astype(np.float32)
    step = (scores.max(axis=(1, 2, 3)).astype(np.float32) - low) / LEVELS
    safe = np.where(step > 0, step, 1).astype(np.float32)[:, None, None, None]
    stored = np.rint((scores - low[:, None, None, None]) / safe).clip(0, LEVELS).astype(np.uint8)
    return stored, [float(value) for value in step], [float(value) for value in low]


def dequantize(stored: Array, scale: float, offset: float) -> Array:
    """One stored map, uint8 of any shape -> float32 scores."""
    return stored.astype(np.float32) * np.float32(scale) + np.float32(offset)


def npy_bytes(array: Array) -> bytes:
    """An array as .npy; object arrays are refused, for they would be pickled."""
    if array.dtype.hasobject:
        raise ValueError(f"dtype {array.dtype} would be pickled")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def npy_array(data: bytes) -> Array:
    """Raises ValueError for anything that is not one plain array, as many numbers as there are bytes for."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"version {version} of the npy format")
    shape, columns_first, dtype = read_header[version](file)
    if dtype.hasobject:
        raise ValueError("an array of objects, which would be unpickled")
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{dtype} {shape} does not fit {len(data)} bytes")
    array = np.frombuffer(bytearray(data), dtype, offset=file.tell())  # a copy that may be written to
    return array.reshape(shape, order="F" if columns_first else "C")


def meta_bytes(meta: BaseModel) -> bytes:
    return json.dumps(meta.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def clip_meta(data: bytes, where: str) -> ClipMeta:
    """Raises UserError, naming `where`, when the bytes are not a clip's json."""
    try:
        return ClipMeta.model_validate_json(data)
    except ValidationError as error:
        raise UserError(f"{where}: not the json of a clip sample: {error.errors()[0]['msg']}") from error


def guide_meta(data: bytes, where: str) -> GuideMeta:
    """Raises UserError, naming `where`, when the bytes are not a guide's json."""
    try:
        return GuideMeta.model_validate_json(data)
    except ValidationError as error:
        raise UserError(f"{where}: not the json of a guide sample: {error.errors()[0]['msg']}") from error
