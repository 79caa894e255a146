"""The trainer without the rest of tgmae: python -m train COMMAND CONFIG.toml [--set section.key=value]."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.config import Experiment
from schemas.errors import UserError, user_error
from schemas.foreign_text import shown_lines
from schemas.log import capturing
from schemas.signals import INTERRUPTED, end_with_parent, exit_on_sigterm
from schemas.toml import load_experiment


def _pretrain(experiment: Experiment, rebuild: bool) -> None:
    from train.pretrain import run_pretrain  # torch takes seconds to import, --help must not

    run_pretrain(experiment, rebuild=rebuild)


def _finetune(experiment: Experiment, rebuild: bool) -> None:
    from train.finetune import run_finetune

    run_finetune(experiment, rebuild=rebuild)


def _probe(experiment: Experiment, rebuild: bool) -> None:
    from train.probe import run_probe

    run_probe(experiment)


def _retrieve(experiment: Experiment, rebuild: bool) -> None:
    from train.retrieve import run_retrieve

    run_retrieve(experiment)


COMMANDS: dict[str, Callable[[Experiment, bool], None]] = {
    "pretrain": _pretrain,
    "finetune": _finetune,
    "probe": _probe,
    "retrieve": _retrieve,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0; 2 for what the user can put right, which is printed without a traceback; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("stage", choices=COMMANDS)
    parser.add_argument("config", type=Path, help="an experiment, TOML")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="such as mask.ratio=0.75; may be repeated")  # fmt: skip
    parser.add_argument("--rebuild", action="store_true", help="move a run of this name that has another config aside")
    parser.add_argument(
        "--end-with-parent", action="store_true", help="stop when the process that started this one ends"
    )
    options = parser.parse_args(arguments)
    if options.end_with_parent:
        end_with_parent()
    exit_on_sigterm(f"{options.stage}: terminated; what is done is kept, the same command resumes")
    try:
        experiment = load_experiment(options.config, options.overrides)
        with capturing():
            COMMANDS[options.stage](experiment, options.rebuild)
    except KeyboardInterrupt:
        if not options.end_with_parent:  # which reports it
            print(f"{options.stage}: interrupted; what is done is kept, the same command resumes", file=sys.stderr)
        return INTERRUPTED
    except (UserError, OSError) as error:
        ours = user_error(error)
        if ours is None:
            raise
        rank = os.environ.get("RANK")
        print(f"error{f' in process {rank}' if rank else ''}: {shown_lines(ours)}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
