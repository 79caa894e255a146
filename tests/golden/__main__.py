"""`python -m tests.golden [FILE]`: what every stage leaves now, into FILE or expected.json.

Not a part of trail.py: the processes that stages start would import that, and torch with it, once more each.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path


def main() -> None:
    if os.environ.get("OMP_NUM_THREADS") != "1":  # read when torch loads; sums differ by threads
        arguments = [sys.executable, "-m", "tests.golden", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "OMP_NUM_THREADS": "1"})
    import torch

    from tests.golden.trail import EXPECTED, machine, trail

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {"machine": machine(), "trail": trail(Path(folder))}
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else EXPECTED
    out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
