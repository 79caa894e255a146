#!/usr/bin/env python3
"""Writes constraints.txt: what pip resolves for tgmae with all extras, on every Python given. Installs nothing.

.ci/pin.py python3.10 python3.11 python3.12 python3.13              # keeps the pins there are, adds what is missing
.ci/pin.py --upgrade python3.10 python3.11 python3.12 python3.13    # resolves everything again
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "constraints.txt"
LEFT_TO_TORCH = ("nvidia-", "cuda-", "triton")  # torch pins these itself, to what it was built with
HEADER = """\
# Every package that tgmae with all extras brings in, pinned. Written by .ci/pin.py; docs/install.md says how to renew.
# nvidia-*, cuda-* and triton are left to torch, which pins what it was built with.
"""

Minor = tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="ignore the pins there are")
    parser.add_argument("python", nargs="+", help="an interpreter of each supported Python")
    arguments = parser.parse_args()
    found: dict[str, dict[Minor, str]] = {}
    for python in arguments.python:
        minor, versions = resolve(python, keep=not arguments.upgrade)
        print(f"{python}: {len(versions)} packages", file=sys.stderr)
        for name, version in versions.items():
            found.setdefault(name, {})[minor] = version
    FILE.write_text(HEADER + "".join(line + "\n" for name in sorted(found) for line in pins(name, found[name])))


def resolve(python: str, *, keep: bool) -> tuple[Minor, dict[str, str]]:
    """The Python's (major, minor) and the version of every package pip would install there."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        inside, report = str(Path(folder) / "bin" / "python"), Path(folder) / "report.json"
        options = ["-c", str(FILE)] if keep else []
        install = [inside, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
        subprocess.run([*install, "--upgrade", "pip"], check=True)
        wanted = [*options, "--dry-run", "--ignore-installed", "--report", str(report), f"{ROOT}[pipeline,train,dev]"]
        subprocess.run([*install, *wanted], check=True)
        resolved = json.loads(report.read_text())
    major, minor = resolved["environment"]["python_version"].split(".")
    versions = {normal(item["metadata"]["name"]): item["metadata"]["version"] for item in resolved["install"]}
    left_out = [name for name in versions if name == "tgmae" or name.startswith(LEFT_TO_TORCH)]
    return (int(major), int(minor)), {name: versions[name] for name in versions if name not in left_out}


def pins(name: str, versions: dict[Minor, str]) -> list[str]:
    """One line where every Python gets the same version, else one for each run of Pythons that do."""
    runs = [
        (version, [minor for minor, _ in run]) for version, run in groupby(sorted(versions.items()), lambda x: x[1])
    ]
    lines = []
    for place, (version, minors) in enumerate(runs):
        bounds = [f"python_version >= '{text(minors[0])}'"] if place else []
        bounds += [f"python_version < '{text(runs[place + 1][1][0])}'"] if place + 1 < len(runs) else []
        lines.append(f"{name}=={version}" + (f"; {' and '.join(bounds)}" if bounds else ""))
    return lines


def text(minor: Minor) -> str:
    return f"{minor[0]}.{minor[1]}"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
