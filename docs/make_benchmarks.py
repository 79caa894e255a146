#!/usr/bin/env python3
"""Writes docs/benchmarks.md from bench/results/*.json, by the modules in docs/benchmark_sections.

Each has a function page(results: Path) -> str, the Markdown of its section; with a line for what was not measured.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECTIONS = HERE / "benchmark_sections"
RESULTS = HERE.parent / "bench" / "results"
PAGE = HERE / "benchmarks.md"
ORDER = ("stream", "stages", "captions", "score_maps", "step", "gpu", "cut_videos")  # others come last
HEAD = """\
<!-- Written by docs/make_benchmarks.py from bench/results/*.json: change the programs that make those. -->
# Benchmarks

Every number comes from a program in bench/, which prints JSON; the results quoted lie in bench/results. The machine is
the workplace's: 2 cores, no GPU, busy with other work at times. So variants take turns within one run, medians are
quoted, and ratios rather than rates. `bench/gates.toml` names for each program the ratio that must hold; `make
bench-gates` runs short forms of them and fails on a miss, and .ci/run those that take seconds.
"""

sys.path.insert(0, str(HERE))  # a program of its own, and run by a test


def page(results: Path = RESULTS) -> str:
    found = {path.stem for path in SECTIONS.glob("[a-z]*.py")}
    names = [name for name in ORDER if name in found] + sorted(found.difference(ORDER))
    return "\n".join([HEAD, *(importlib.import_module(f"benchmark_sections.{name}").page(results) for name in names)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
