"""What finds optical flow: OpenCV's DIS and Farnebäck, here, or RAFT (pipeline/guides/raft.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from pipeline.guides import Floats, Frames
from pipeline.guides.flow import Engine
from schemas.config import Flow


def make_engine(options: Flow) -> Engine:
    """Raises UserError when RAFT's weights cannot be loaded."""
    if options.engine == "raft":
        from pipeline.guides.raft import Raft  # torchvision takes seconds to import

        return Raft(options)
    # DIS cuts the picture in as many strips as there are threads: another number, another flow.
    cv2.setNumThreads(1)
    if options.engine == "farneback":
        return PairByPair(_farneback)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return PairByPair(lambda before, after: dis.calc(before, after, None))  # type: ignore[call-overload]


def _farneback(before: Any, after: Any) -> Any:
    # Halved four times, windows of 15 pixels, three rounds: OpenCV's own example.
    return cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 5, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]


class PairByPair:
    """An algorithm of OpenCV's, on grey pictures."""

    def __init__(self, flow: Callable[[Any, Any], Any]) -> None:
        self._flow = flow

    def __call__(self, from_NHW3: Frames, to_NHW3: Frames) -> Floats:
        before, after = ([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in part] for part in (from_NHW3, to_NHW3))
        return np.stack([self._flow(*pair) for pair in zip(before, after, strict=True)])
