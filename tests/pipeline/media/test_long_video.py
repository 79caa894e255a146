"""What a worker holds of a video does not grow with it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.guides.frames import CHUNK, scored_frames
from tests.pipeline.guides.moving import mp4

PROGRAM = Path(__file__).resolve().parents[3] / "bench" / "long_video.py"


def peaks(seconds: int) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), "--seconds", str(seconds), "--stages", "shard"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


@pytest.mark.slow
def test_memory_of_sharding_does_not_grow_with_the_video() -> None:
    """1080p: 50 and 200 frames; the 150 more, held, are 470 MB as they are decoded and 930 MB as RGB."""
    short, long = peaks(2), peaks(8)
    assert (short["frames"], long["frames"]) == (50, 200)
    assert long["shard_mb"] < short["shard_mb"] + 150, (short, long)


@pytest.mark.medium
def test_a_guide_holds_one_chunk_of_a_video() -> None:
    data = mp4(list(np.zeros((5 * CHUNK, 32, 32, 3), np.uint8)), gop=12, crf=23, short_side=32)
    before: list[weakref.ref[Any]] = []
    for chunk in scored_frames(data, 1, 5 * CHUNK):
        gc.collect()
        assert len(chunk) == CHUNK and not any(ref() is not None for ref in before[:-1])
        before.append(weakref.ref(chunk))
    assert len(before) == 5
