"""Files that come with tgmae: the configs, and the small models of the embedded world."""

from __future__ import annotations

from pathlib import Path

import pipeline.world

_HERE = Path(__file__).resolve().parent
CONFIGS = next((folder for folder in (_HERE / "configs", _HERE.parent / "configs") if folder.is_dir()), _HERE)
"""In a wheel inside the package (pyproject.toml), in a clone next to it."""
WORLD_MODELS = Path(pipeline.world.__path__[0]) / "models"
