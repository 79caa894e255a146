"""The demo on several world seeds: what it comes to, and its spread.

    python -m tgmae.demo.seeds [--seeds 1 2 3] [--folder work/demo-seeds] [--set KEY=VALUE ...]

Writes bench/results/demo.json after each. A seed whose workspace is there is measured again, not trained again.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from schemas.atomic import write_json
from tgmae.demo.demo import demo
from tgmae.shipped_files import CONFIGS

RESULTS = CONFIGS.parent / "bench" / "results" / "demo.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("work/demo-seeds"))
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, as of tgmae demo")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    runs = []
    for seed in options.seeds:
        found = demo(options.folder / str(seed), overrides=options.set, seed=seed)
        runs.append({"seed": seed, **{name: value for name, value in found.items() if name != "report"}})
        load = {"load_average": round(os.getloadavg()[1], 1)}  # other work slows it down
        write_json(options.results, {"overrides": options.set, "machine": machine, **load, "runs": runs})


if __name__ == "__main__":
    main()
