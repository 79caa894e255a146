"""The tests that are marked gpu."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from bench.gpu.card import Asked, Keep

NEEDS = ("pytest", "pytest_timeout", "xdist")
SECONDS = 90
START = 12  # of them, until torch is imported
ROOT = Path(__file__).resolve().parents[2]


def measure(asked: Asked, keep: Keep) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        which = ["-k", "bfloat16"] if asked.tiny else []
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *which, f"--junitxml={report}", "tests/gpu"]
        limit = max(1, asked.seconds - START)  # before this part is stopped, which would leave the tests running
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
        found: dict[str, str] = {}
        if report.is_file():
            for case in ElementTree.parse(report).getroot().iter("testcase"):
                states = [each for each in case if each.tag in ("failure", "error", "skipped")]
                found[case.attrib["name"]] = f"{states[0].tag}: {states[0].attrib.get('message', '')[:300]}" if states \
                    else "passed"  # fmt: skip
    keep({"tests": found, "passed": ended.returncode == 0, "output": ended.stdout[-2000:]})
