"""The JSON of a program in bench/, where there is any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NOT_YET = "not measured yet"


def measured(results: Path, name: str) -> Any:
    """What lies in NAME.json; None: it was not measured yet."""
    path = results / f"{name}.json"
    return json.loads(path.read_bytes()) if path.is_file() else None


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
