"""What a result was trained with and measured on, in words, and which rows of a table cannot be compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from train.evaluation.results import Result

UNTRAINED = "untrained"
SCRATCH = "nothing: supervised from scratch"


def wilson(share: float, tested: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share that was measured on so many videos (Wilson's score interval)."""
    middle = (share + z * z / (2 * tested)) / (1 + z * z / tested)
    half = z / (1 + z * z / tested) * math.sqrt(share * (1 - share) / tested + z * z / (4 * tested * tested))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def trained_with(result: Result) -> str:
    """The mask, guide and captions of the run's pretraining, or the weights that were there."""
    experiment = result.experiment
    if result.checkpoint.source == UNTRAINED:
        return SCRATCH if result.kind == "finetune" else "nothing: untrained"
    if not _pretrained(result):
        return f"weights of {experiment['model'].get('init') or result.checkpoint.source}"
    mask, objective, guide = experiment["mask"], experiment["objective"], experiment["guide"]
    contrastive = objective.get("contrastive", 0) > 0
    masked = objective.get("kind", "mae") == "mae" and objective.get("reconstruction", 1) > 0
    parts = [f"{mask['kind']} {mask['ratio']:g}" if masked else objective.get("kind", "mae"), f"guide {guide}"]
    if contrastive or guide in ("text", "embeddings") or ":" in guide:
        parts.append(f"captions {experiment['captions']}")
    return ", ".join([*parts, *(["contrastive"] if contrastive else [])])


def epochs(result: Result) -> str:
    """Of pretraining."""
    return str(result.experiment["optim"]["epochs"]) if _pretrained(result) else "–"


def tested(results: Sequence[Result]) -> int:
    """How many test videos there were; 0 where the results do not say."""
    return max((result.counts.get("test", 0) for result in results), default=0)


def _pretrained(result: Result) -> bool:
    return "pretrain" in result.experiment.get("stages", ()) and result.checkpoint.source != UNTRAINED


def conditions(result: Result) -> dict[str, Any]:
    """What must be equal for two results of one kind to be compared, in words."""
    options: Mapping[str, Any] = result.experiment.get(result.kind, {})
    found: dict[str, Any] = {
        "clips": result.dataset[:12],
        f"{result.kind} splits": f"{options.get('train_split')}/{options.get('test_split') or 'by default'}",
        f"{result.kind} test videos": result.counts.get("test"),
        f"{result.kind} views": " ".join(f"{name} {value}" for name, value in sorted(result.views.items())),
    }
    if result.kind == "finetune":
        found["fine-tuning epochs"] = options.get("epochs")
    if _pretrained(result):
        found["pretraining epochs"] = result.experiment["optim"]["epochs"]
    return found


def unlike_others(rows: Mapping[str, Sequence[Result]]) -> dict[str, list[str]]:
    """By row, in what its results differ from those of most rows. Empty where all can be compared."""
    by_row: dict[str, dict[str, set[Any]]] = {}
    for name, results in rows.items():
        for result in results:
            for what, value in conditions(result).items():
                by_row.setdefault(name, {}).setdefault(what, set()).add(value)
    differing: dict[str, list[str]] = {}
    for what in dict.fromkeys(what for found in by_row.values() for what in found):
        values = {name: found[what] for name, found in by_row.items() if what in found}
        frequent = Counter(value for each in values.values() for value in each).most_common(1)[0][0]
        for name, found in values.items():
            if found != {frequent}:
                mine = ", ".join(map(str, sorted(found - {frequent}, key=str)))
                differing.setdefault(name, []).append(f"{what}: {mine}, elsewhere {frequent}")
    return differing
