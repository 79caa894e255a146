"""Where the named object of a world's video truly is. Light to import: who looks at masks needs no encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def load_truth(path: Path) -> np.ndarray:
    """out/truth/<split>/<label>/<name>.npz -> bool [T, H, W], the visible part of the named object."""
    with np.load(path, allow_pickle=False) as stored:
        shape = tuple(int(n) for n in stored["shape"])
        return np.unpackbits(stored["bits"], count=int(np.prod(shape))).astype(bool).reshape(shape)
