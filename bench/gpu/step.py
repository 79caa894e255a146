"""The step beside its peers, in one run: ours, ours compiled, transformers', and the original's where it is there."""

from __future__ import annotations

import argparse

from bench import train_step
from bench.gpu.card import Asked, Keep

NEEDS = ("transformers", "timm")
SECONDS = 80


def measure(asked: Asked, keep: Keep) -> None:
    options = argparse.Namespace(
        size="tiny" if asked.tiny else "base", batch=2 if asked.tiny else 32, ratio=0.9, rounds=2 if asked.tiny else 10,
        device=asked.device, videomae=asked.videomae, clip=None, memory=False,
    )  # fmt: skip
    keep(train_step.compare(options))
