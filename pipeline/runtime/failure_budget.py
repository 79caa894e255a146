"""The error budget: how many videos may fail before a run as a whole is taken to be going wrong."""

from __future__ import annotations

from schemas.errors import UserError

TOLERATED = 10  # failures that never stop a run: a small folder with one broken file is no alarm


def exceeds_budget(failed: int, total: int, budget: str) -> bool:
    """Whether `failed` of `total` videos are more than `budget`, "10%" or a number such as "25", allows.

    Raises UserError for anything else.
    """
    text = budget.strip()
    try:
        allowed = float(text[:-1]) / 100 * total if text.endswith("%") else float(int(text))
    except ValueError:
        raise UserError(f"max_failures = {budget!r}: a share such as '10%' or a number such as '25'") from None
    if allowed < 0 or allowed != allowed:
        raise UserError(f"max_failures = {budget!r} is negative or no number")
    return failed > max(allowed, TOLERATED)
