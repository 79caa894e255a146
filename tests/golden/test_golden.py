"""What every stage leaves of a fixed small world, byte for byte: a refactoring proves here that it changed nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.golden.trail import EXPECTED, ROOT

TOLERANCE = 2e-3  # of losses and metrics, on another processor or with other libraries: sums in another order


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_stage_leaves_what_it_left(tmp_path: Path) -> None:
    """On the machine and with the libraries of expected.json: every digest and every loss. Elsewhere texts, counts
    and fingerprints are equal, and losses within TOLERANCE."""
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.golden", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    expected, found = json.loads(EXPECTED.read_bytes()), json.loads(out.read_bytes())
    exact = expected["machine"] == found["machine"]
    left, wanted = (flat(value["trail"]) for value in (found, expected))
    assert left.keys() == wanted.keys()
    differing = {name: (wanted[name], left[name]) for name in wanted
                 if not same(name, wanted[name], left[name], exact)}  # fmt: skip
    assert not differing, "\n".join(f"{name}: {was} -> {now}" for name, (was, now) in differing.items())


def same(name: str, wanted: Any, found: Any, exact: bool) -> bool:
    if exact:
        return bool(wanted == found)
    if name.endswith(("output", "exported", "world")):
        return True
    if isinstance(wanted, float):
        return bool(found == pytest.approx(wanted, abs=TOLERANCE))
    return bool(wanted == found)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts and lists, by path."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return {prefix: value}
    return {name: leaf for key, each in pairs for name, leaf in flat(each, f"{prefix}/{key}").items()}
