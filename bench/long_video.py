"""Memory of the pipeline's workers on a long video of 1080p: it must not grow with the video.

    python bench/long_video.py [--seconds 600] [--stages shard guide]

Draws such a video (25 frames a second), then in a process of its own indexes, shards and scores it, by the workers that
Ray's actors hold; prints the peak of resident memory after each as JSON. Held whole, ten minutes of it are 93 GB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import av
import numpy as np

FPS, WIDTH, HEIGHT = 25, 1920, 1080
STAGES = ("shard", "guide")  # the second needs the first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--frame-stride", type=int, default=4, help="every n-th frame is scored")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # of the process that is measured
    options = parser.parse_args()
    if options.work is not None:
        print(json.dumps(measure(options.work, options.frame_stride, "guide" in options.stages)))
        return
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "data" / "long.mp4", options.seconds)
        command = [sys.executable, __file__, "--work", folder, "--frame-stride", str(options.frame_stride),
                   "--stages", *options.stages]  # fmt: skip
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(json.dumps({"seconds_of_video": options.seconds, **found}, indent=1))


def draw(path: Path, seconds: int) -> None:
    """A grey that changes, and a bright bar that moves."""
    path.parent.mkdir()
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "40"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
        for number in range(seconds * FPS):
            planes[:HEIGHT] = 40 + number % 100
            planes[:HEIGHT, (8 * number) % (WIDTH - 64) :][:, :64] = 220
            output.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        output.mux(stream.encode(None))


def measure(folder: Path, frame_stride: int, guided: bool) -> dict[str, object]:
    from pipeline.guide import GuideWorker
    from pipeline.guides.recipes import recipe
    from pipeline.runtime.units import ShardResult, Unit
    from pipeline.shard import ShardWorker
    from schemas.tables import CAPTIONS, FAILURES, MANIFEST, read_table, write_table
    from tgmae.demo.demo import demo_experiment
    from tgmae.run import run

    overrides = ["index.format=files", "shard.short_side=256", "text.patch=16", "text.cache=false",
                 f"text.frame_stride={frame_stride}"]  # fmt: skip
    experiment = demo_experiment(folder, folder / "data", overrides)
    run(experiment, partial(print, file=sys.stderr), only=("index",))
    rows = read_table(Path(experiment.workspace) / "manifest" / "manifest.parquet", MANIFEST).to_pylist()
    clips, captions, guide = folder / "clips", folder / "captions", folder / "guide"
    text = {"key": rows[0]["key"], "video_id": rows[0]["video_id"], "caption": 0, "text": "a white bar"}
    write_table(captions / "captions.parquet", [text], CAPTIONS)
    write_table(captions / "failures.parquet", [], FAILURES)
    found: dict[str, object] = {"index_mb": peak()}

    began = time.perf_counter()
    sharder = ShardWorker(clips, folder / "data", experiment.shard)
    *_, sharded = sharder.run(Unit(0, rows))
    assert isinstance(sharded, ShardResult) and not sharded.failures, sharded
    found |= {"frames": sharded.rows[0]["frames"], "shard_mb": peak(), "shard_s": round(time.perf_counter() - began)}
    if not guided:
        return found
    began, own = time.perf_counter(), recipe(experiment)
    worker = GuideWorker(own.make(), clips, captions, guide, own.frame_stride, own.read)
    *_, scored = worker.run(Unit(0, sharded.rows))
    assert isinstance(scored, ShardResult) and not scored.failures, scored
    return found | {"guide_mb": peak(), "guide_s": round(time.perf_counter() - began)}


def peak() -> int:
    """Of this process or one that it has started: what its parents had used before is not in it, as in ru_maxrss."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    states = [Path(f"/proc/{pid}/status").read_text().splitlines() for pid in processes]
    return max(int(line.split()[1]) // 1024 for state in states for line in state if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
