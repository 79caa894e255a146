"""The embedded world: labelled videos with known object masks, and small models of the real architectures that
understand them.

`pipeline.world.write` draws the videos; `models/clip` (open_clip) and `models/blip2` (transformers) are trained on
them by `python -m pipeline.world.train_models`. Nothing outside this package knows of the world: its folders are read
by the code that reads anyone's videos and anyone's models.
"""

from pathlib import Path

from pipeline.world.truth import load_truth

MODELS = Path(__file__).resolve().parent / "models"
"""Folder of the shipped models, wherever the repository lies: `f"local-dir:{MODELS / 'clip'}"`, `MODELS / "blip2"`."""

__all__ = ["MODELS", "load_truth"]
