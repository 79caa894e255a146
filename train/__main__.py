"""The trainer without the rest of tgmae: python -m train pretrain|probe CONFIG.toml [--set section.key=value]."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import UserError
from schemas.toml import load_experiment


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for what the user can put right, which is printed without a traceback."""
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("stage", choices=("pretrain", "probe"))
    parser.add_argument("config", type=Path, help="an experiment, TOML")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="such as mask.ratio=0.75; may be repeated")  # fmt: skip
    parser.add_argument("--restart", action="store_true", help="move a run of this name that has another config aside")
    options = parser.parse_args(arguments)
    try:
        experiment = load_experiment(options.config, options.overrides)
        if options.stage == "pretrain":
            from train.pretrain import run_pretrain  # torch takes seconds to import, --help must not

            run_pretrain(experiment, restart=options.restart)
        else:
            from train.probe import run_probe

            run_probe(experiment)
    except UserError as error:
        rank = os.environ.get("RANK")
        print(f"error{f' in process {rank}' if rank else ''}: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
