"""What many videos cost before any of them is decoded: seconds and memory of index, status, plan, opening the stream.

    python bench/scale.py [--videos 20000 200000] [--rounds 3] [--out bench/results/scale.json]

A folder of so many files, hard links to eight drawn videos in 400 class folders, is indexed by the command itself.
What follows is made up, for no tars are needed to open them: an index of clips and one of a guide, with their records.
Each command is a process of its own: seconds from its start to its end, of the clock and of the processor (which do not
tell what else the machine does), and the memory of the largest process among it and those it starts; medians over
rounds, but for the index, which is made once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.compute as pc
from turn import nice

from pipeline.world.write import write_world
from schemas.atomic import sha256_file
from schemas.stage import StageRecord, required_record, stored_files, write_record
from schemas.tables import CLIP_INDEX, FAILURES, GUIDE_INDEX, MANIFEST, read_table, write_table
from schemas.workspace import Workspace, shard_name

ROOT = Path(__file__).resolve().parents[1]
CLASSES, PER_SHARD, CLIP = 400, 2000, 100_000  # videos of a shard, bytes of a clip
OPEN = """
import sys
from pathlib import Path
from schemas.workspace import Workspace
from train.data.sampling import BatchPlan
from train.data.videos import videos_to_pretrain_on
videos, _ = videos_to_pretrain_on(Workspace(Path(sys.argv[1])), "text-oracle")
plan = BatchPlan(videos.column("shard"), seed=0, epochs=1, batch_size=1024)
assert len(next(iter(plan))) == 1024
"""
WATCH = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""  # a process of its own, for a child begins with the memory of its parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the JSON; by default it is printed")
    options = parser.parse_args()
    found = {
        "rows": [measure(count, options.rounds) for count in options.videos],
        "rounds": options.rounds,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}; Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),  # of a minute: what else the machine does
        "nice": nice(),  # the priority of all this
    }
    text = json.dumps(found, indent=1) + "\n"
    print(text) if options.out is None else options.out.write_text(text)


def measure(count: int, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        data, work, config = Path(folder) / "data", Path(folder) / "work", Path(folder) / "scale.toml"
        link(data, Path(folder) / "source", count)
        config.write_text(f'workspace = "{work}"\ncaptions = "oracle"\nstages = []\nguide = "text"\n'
                          f'[index]\ndata = "{data}"\n')  # fmt: skip
        found = {"videos": float(count)}
        found |= timed("index", ["-m", "tgmae", "--quiet", "index", str(data), "--out", str(work)], 1)
        make_up(Workspace(work))
        found |= timed("status", ["-m", "tgmae", "status", str(work)], rounds)
        found |= timed("plan", ["-m", "tgmae", "run", str(config), "--plan"], rounds)
        found |= timed("open", ["-c", OPEN, str(work)], rounds)
        return found


def link(data: Path, source: Path, count: int) -> None:
    write_world(source, videos=8, size=32, frames=16, test_share=0.25, workers=1)
    files = sorted(source.rglob("*.mp4"))
    for number in range(count):
        folder = data / f"class{number % CLASSES:03d}"
        if number < CLASSES:
            folder.mkdir(parents=True)
        (folder / f"{number:06d}.mp4").hardlink_to(files[number % len(files)])


def make_up(workspace: Workspace) -> None:
    """Clips and a guide of all videos, as far as they are looked at before a sample is read."""
    manifest = read_table(workspace.manifest / "manifest.parquet", MANIFEST)
    manifest = manifest.take(pc.sort_indices(manifest["key"]))
    rows = [{**row, "shard": n // PER_SHARD, "offset": n % PER_SHARD * CLIP, "length": CLIP, "maps": 1}
            for n, row in enumerate(manifest.to_pylist())]  # fmt: skip
    made = required_record(workspace.manifest, "tgmae index").output
    clips = record(workspace.clips, rows, "shard", {"manifest": made})
    record(workspace.guide("text-oracle"), rows, "guide", {"clips": clips})


def record(folder: Path, rows: list[dict[str, object]], stage: str, inputs: dict[str, str]) -> str:
    folder.mkdir(parents=True)
    schema = CLIP_INDEX if stage == "shard" else GUIDE_INDEX
    table = [{name: row[name] for name in schema.names} for row in rows]
    write_table(folder / "index.parquet", table, schema)
    write_table(folder / "failures.parquet", [], FAILURES)
    for shard in range(-(-len(rows) // PER_SHARD)):
        (folder / shard_name(shard)).touch()
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    made = StageRecord(stage=stage, fingerprint="0", config={}, inputs=inputs, output=stage, failed={}, tools={},
                       counts={"done": len(rows), "failed": 0}, info={"captions": "oracle"}, seconds=0.0,
                       files=stored_files(folder, files))  # fmt: skip
    write_record(folder, made)
    return stage


def timed(name: str, arguments: list[str], rounds: int) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = []
    for _ in range(rounds):
        command = [sys.executable, "-c", WATCH, sys.executable, *arguments]
        watched = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        found.append(json.loads(watched.stdout))
    seconds, cpu, memory = (statistics.median(each) for each in zip(*found, strict=True))
    return {f"{name}_seconds": round(seconds, 2), f"{name}_cpu_seconds": round(cpu, 2), f"{name}_mb": round(memory)}


if __name__ == "__main__":
    main()
