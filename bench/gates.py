"""Runs the short forms of the benches and compares their ratios with bench/gates.toml; ends with 1 on a miss.

    python bench/gates.py [--ci] [--only stream train_step] [--tries 2]

A program runs once for all its gates, and again where one is missed, for a machine may be busy just then: a gate is
missed when every try misses it. --ci takes the bounds of .ci/run, and leaves out what has none. A program that is
not there is named and passed over.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "bench" / "gates.toml"


class Gate(NamedTuple):
    says: str
    run: tuple[str, ...]
    value: str
    over: str | None
    at_least: float | None
    at_most: float | None

    def measured(self, found: Any) -> float:
        value = float(at(found, self.value))
        return value if self.over is None else value / float(at(found, self.over))

    def holds(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def bound(self) -> str:
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ci", action="store_true", help="the bounds of .ci/run")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="programs of bench/, such as stream")
    parser.add_argument("--tries", type=int, default=2)
    options = parser.parse_args()
    wanted = [gate for gate in gates(FILE, ci=options.ci) if not options.only or program(gate) in options.only]
    sys.exit(check(wanted, options.tries))


def gates(file: Path, *, ci: bool) -> list[Gate]:
    """Of a file. Errors: ValueError for a gate that names no bound, or two."""
    found = []
    for each in tomllib.loads(file.read_text(encoding="utf-8"))["gate"]:
        bounds = [name for name in ("at_least", "at_most") if name in each]
        if len(bounds) != 1:
            raise ValueError(f"the gate {each['says']!r} names {bounds or 'no bound'}: at_least or at_most")
        if not ci or "ci" in each:
            bound = {bounds[0]: float(each["ci" if ci else bounds[0]])}
            found.append(Gate(each["says"], tuple(each["run"]), each["value"], each.get("over"),
                              bound.get("at_least"), bound.get("at_most")))  # fmt: skip
    return found


def check(wanted: list[Gate], tries: int) -> int:
    """Prints a line a gate; the exit status."""
    missed = 0
    for run in dict.fromkeys(gate.run for gate in wanted):
        together = [gate for gate in wanted if gate.run == run]
        if not (ROOT / run[0]).is_file():
            print(f"not here  {run[0]}: {len(together)} gates")
            continue
        values: dict[Gate, list[float]] = {gate: [] for gate in together}
        for _ in range(tries):
            found = measured(run)
            for gate in together:
                values[gate].append(gate.measured(found))
            if all(any(map(gate.holds, values[gate])) for gate in together):
                break
        for gate in together:
            good = any(map(gate.holds, values[gate]))
            missed += not good
            tried = ", ".join(f"{value:.3g}" for value in values[gate])
            word = "holds " if good else "MISSED"
            print(f"{word}    {gate.says}: {tried}; {gate.bound} ({' '.join(run)})", flush=True)
    return int(missed > 0)


def measured(run: tuple[str, ...]) -> Any:
    """The JSON that a program prints last."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bench")])}
    # Not as a script, which each process that reads videos would import first, torch and all.
    command = [sys.executable, "-c", f"from {Path(run[0]).stem} import main; main()", *run[1:]]
    ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout[ended.stdout.index("{") :])


def at(found: Any, path: str) -> Any:
    """What lies at a place such as rows.0.waited."""
    for name in path.split("."):
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def program(gate: Gate) -> str:
    return Path(gate.run[0]).stem


if __name__ == "__main__":
    main()
