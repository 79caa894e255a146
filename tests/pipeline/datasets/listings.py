"""What the tests of list formats share: empty files in place of videos, and annotations written next to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.datasets import Listing


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root.resolve()


def write(path: Path, content: Any) -> Path:
    """Text and bytes as they are, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def reasons(listing: Listing) -> dict[str, str]:
    return {row["video_id"]: f"{row['error']}: {row['message']}" for row in listing.failures}
