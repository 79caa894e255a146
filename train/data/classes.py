"""The classes of a data set, and the heads that distinguish them.

A label is one class. It is told by one head over all classes or, for EPIC-Kitchens, by two: an
action is a pair of a verb and a noun, and its score the product of theirs.

Shape suffixes: S videos, K classes, G heads, P numbers of all heads, one head after the other.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from schemas.errors import UserError
from schemas.workspace import Workspace
from train.data.videos import Videos

FILE = "classes.json"  # of the manifest
NAMES = "classes"  # in the metadata of a fine-tuned model.safetensors
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    name: str  # "label", "verb", "noun"
    size: int
    of_class_K: Ints  # what this head says of each class

    def target(self, class_BK: Tensor) -> Tensor:
        """Shares of classes as shares of this head's answers: float32 [B, K] to [B, size]."""
        index = torch.from_numpy(self.of_class_K).to(class_BK.device)
        return class_BK.new_zeros(len(class_BK), self.size).index_add_(1, index, class_BK)


@dataclass(frozen=True)
class Classes:
    names: tuple[str, ...]  # K, by label
    heads: tuple[Head, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def outputs(self) -> int:
        """P: 97 + 300 for EPIC-Kitchens-100."""
        return sum(head.size for head in self.heads)

    def split(self, x: Any) -> list[Any]:
        """An array or tensor [..., P] as one [..., size] for each head."""
        ends = np.cumsum([head.size for head in self.heads]).tolist()
        return [x[..., end - head.size : end] for head, end in zip(self.heads, ends, strict=True)]

    def scores(self, probability_SP: Floats) -> Floats:
        """Scores of the classes, the product of their heads' probabilities: float32 [S, K]."""
        parts = self.split(probability_SP)
        scores = [part[:, head.of_class_K] for part, head in zip(parts, self.heads, strict=True)]
        return np.asarray(np.prod(scores, axis=0), np.float32)


def read_classes(workspace: Workspace, videos: Videos, heads: Literal["label", "verb-noun"]) -> Classes:
    """The classes of the labelled videos; names from the manifest's classes.json, else from the videos' label_text.

    Errors: UserError when a label is not in classes.json, or two heads are wanted and it has no verbs and nouns.
    """
    path, labels = workspace.manifest / FILE, videos.column("label")
    known = _read(path) if path.is_file() else {}
    names = tuple(str(name) for name in known.get("classes", ())) or _names(labels, videos.strings("label_text"))
    if labels.max() >= len(names):
        raise UserError(
            f"{path} names {len(names)} classes, but {int((labels >= len(names)).sum())} videos have a label beyond: "
            "index and shard the data again"
        )
    if heads == "label":
        return Classes(names, (Head("label", len(names), np.arange(len(names))),))
    groups = known.get("groups", {})
    if not {"verb", "noun"} <= groups.keys():
        raise UserError(
            f"finetune.heads = 'verb-noun' needs the verb and the noun of each class, which {path} does not have: "
            "index EPIC-Kitchens from its own annotations, or set finetune.heads = 'label'"
        )
    return Classes(names, tuple(_head(name, groups[name], len(names), str(path)) for name in ("verb", "noun")))


def names_in(file: Path) -> list[str] | None:
    """The classes that a classifier's safetensors file names; None where it does not say."""
    with safe_open(file, framework="pt") as opened:
        names: list[str] | None = json.loads((opened.metadata() or {}).get(NAMES, "null"))
    return names


def _head(name: str, group: dict[str, Any], classes: int, where: str) -> Head:
    size, of_class = len(group["names"]), np.asarray(group["of_class"], np.int64)
    if of_class.shape != (classes,) or not ((of_class >= 0) & (of_class < size)).all():
        raise UserError(
            f"{where}: groups.{name}.of_class is not one of its {size} {name}s for each of {classes} classes"
        )
    return Head(name, size, of_class)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): index the data again") from error
    return found


def _names(labels: NDArray[Any], texts: list[str | None]) -> tuple[str, ...]:
    names = [str(label) for label in range(int(labels.max()) + 1)]
    for label, text in zip(labels.tolist(), texts, strict=True):
        if label >= 0 and text:
            names[label] = text
    return tuple(names)
