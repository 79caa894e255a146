"""Whether decoding keeps up with a GPU: the share of time that a guide's model waits for frames.

    python bench/feeding.py [--sizes 64 112 256] [--rate 500] [--threads 8] [--rounds 5] [--out FILE]

The model is one that sleeps: it takes 1/RATE seconds a frame, as a GPU would, which leaves the processor to the threads
that decode; all else is the guide stage's own worker, reading clips of the embedded world, 96 frames each, every fourth
of them scored, and writing its tar. A machine of few cores cannot decode large clips at that rate, whatever the
machinery does: `frames_per_core` is how many scored frames a second of a core's time decodes, and `needed_cores` the
cores that the rate takes. `nice` is the program's own priority, by which it gets its turn on a busy machine. Medians
over rounds. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from turn import nice

from pipeline.guide import GuideWorker
from pipeline.guides import Frames, Scores
from pipeline.guides.frames import scored_frames
from pipeline.media.decoding import decode
from pipeline.media.encoding import encode
from pipeline.runtime.tars import new_shard
from pipeline.runtime.units import Row, ShardResult, Unit
from pipeline.world.write import write_world
from schemas.config import Shard
from schemas.shards import ClipMeta, meta_bytes
from schemas.tables import video_key

FRAMES, STRIDE, VIDEOS = 96, 4, 150


class Sleeper:
    """A guide whose model takes its time and no processor."""

    def __init__(self, rate: float) -> None:
        self._rate, self.busy = rate, 0.0  # seconds

    def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
        frames = 0
        for chunk in chunks:
            began = time.perf_counter()
            time.sleep(len(chunk) / self._rate)
            self.busy += time.perf_counter() - began
            frames += len(chunk)
        return Scores(np.zeros((1, frames, 14, 14), np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 112, 256], help="pixels of a clip's side")
    parser.add_argument("--rate", type=float, default=500.0, help="scored frames a second of the model")
    parser.add_argument("--threads", type=int, default=8, help="that decode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="the JSON; by default it is printed")
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(Path(folder), size, options))
    found = {
        "rows": rows, "model_frames_per_second": options.rate, "threads": options.threads, "rounds": options.rounds,
        "videos": VIDEOS, "frames": FRAMES, "frame_stride": STRIDE, "load": round(os.getloadavg()[0], 1),
        "nice": nice(), "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }  # fmt: skip
    text = json.dumps(found, indent=1) + "\n"
    print(text) if options.out is None else options.out.write_text(text)


def measure(folder: Path, size: int, options: argparse.Namespace) -> dict[str, Any]:
    clips = made_clips(folder, size)
    found: dict[int, list[dict[str, float]]] = {options.threads: [], 1: []}
    alone = []
    for _ in range(options.rounds):
        alone.append(decoding_rate(folder, clips))
        for threads, kept in found.items():
            kept.append(run(folder, clips, options.rate, threads))
    many, one = ({name: round(statistics.median(each[name] for each in kept), 4) for name in kept[0]}
                 for kept in found.values())  # fmt: skip
    return {
        "size": size, **many, "waited_rounds": [round(each["waited"], 4) for each in found[options.threads]],
        "with_one_thread": one, "frames_per_core": round(statistics.median(alone), 1),
        "needed_cores": round(options.rate / statistics.median(alone), 2),
    }  # fmt: skip


def made_clips(folder: Path, size: int) -> list[Row]:
    """A tar of clips, eight drawn ones over and over; their rows of the index."""
    write_world(folder / "world", videos=8, size=size, frames=FRAMES, fps=25, test_share=0.25, workers=1)
    data = [encode(decode(path), 25.0, Shard()).data for path in sorted((folder / "world").rglob("*.mp4"))]
    (folder / "clips").mkdir()
    rows: list[Row] = []
    with new_shard(folder / "clips" / "000000.tar") as shard:
        for number in range(VIDEOS):
            name = f"{number}.mp4"
            meta = ClipMeta(video_id=name, frames=FRAMES, fps=25.0, width=size, height=size, label=None,
                            label_text=None, split="")  # fmt: skip
            fields = {"json": meta_bytes(meta), "mp4": data[number % len(data)]}
            offset, length = shard.add(video_key(name), fields)
            rows.append({"key": video_key(name), "video_id": name, "shard": 0, "offset": offset, "length": length,
                         "frames": FRAMES})  # fmt: skip
    return rows


def decoding_rate(folder: Path, clips: list[Row]) -> float:
    """Scored frames that a second of a core decodes, by one thread that does nothing else."""
    worker = GuideWorker(Sleeper(1e9), folder / "clips", None, folder / "alone", STRIDE, scored_frames, threads=1)
    began = time.process_time()
    frames = sum(len(chunk) for _, chunks in worker.decoded(clips[:32]) for chunk in chunks)
    return frames / (time.process_time() - began)


def run(folder: Path, clips: list[Row], rate: float, threads: int) -> dict[str, float]:
    """Shares of the time: waited for frames, and without work for the model for whatever reason; frames a second."""
    model = Sleeper(rate)
    worker = GuideWorker(model, folder / "clips", None, folder / "guide", STRIDE, scored_frames, threads=threads)
    began = time.perf_counter()
    *_, result = worker.run(Unit(0, clips))
    seconds = time.perf_counter() - began
    assert isinstance(result, ShardResult) and not result.failures
    return {
        "waited": result.seconds["read"] / seconds,
        "idle": 1 - model.busy / seconds,
        "frames_per_second": len(clips) * FRAMES / STRIDE / seconds,
    }


if __name__ == "__main__":
    main()
