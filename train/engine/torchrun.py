"""torchrun that ends with the process that started it: python -m train.engine.torchrun OPTIONS.

Its own tracebacks are left out: what a process of the run has to say it says itself.
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from schemas.signals import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    logging.disable(logging.WARNING)
    try:
        main()
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as failed:
        rank, first = failed.get_first_failure()
        if first.exitcode < 0:
            print(f"process {rank} was ended by signal {-first.exitcode}", file=sys.stderr)
        sys.exit(128 - first.exitcode if first.exitcode < 0 else first.exitcode)
