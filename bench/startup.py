"""How long the command line takes to answer, next to a Python that only imports what any such command line needs.

    python bench/startup.py [--rounds 7]

`tgmae --help`, and a Python that imports typer and rich: processes that take turns, medians. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median

COMMANDS = {
    "help": [sys.executable, "-m", "tgmae", "--help"],
    "typer": [sys.executable, "-c", "import rich.console, rich.progress, typer"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - began)
    found = {f"{name}_seconds": round(median(each), 3) for name, each in seconds.items()}
    print(json.dumps({**found, "help_over_typer": round(found["help_seconds"] / found["typer_seconds"], 2)}, indent=1))


if __name__ == "__main__":
    main()
