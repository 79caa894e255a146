"""How long the stages of a data set take, and how much disk they need: docs/planning.md's table.

    python bench/estimate.py                                 # prints it
    python bench/estimate.py --tflops 990 --gpus 1 8 64      # for other GPUs
    python bench/estimate.py --measure WORKSPACE             # first writes bench/results/stages.json from its records

Measured, on a CPU (bench/results): videos a second that index probes and frames that shard re-encodes, a core each
(stages.json); clips a second and core that the trainer's loader gives (stream.json); crops and bytes of score maps of
a video (score_cost.json). Counted: FLOPs of our models (torch's counter) and of BLIP-2 (its sizes). Assumed, and not
measured here: `--tflops` and `--utilisation` of a GPU. Downloads, the start of Ray and a busy disk are not in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.shard import estimated_bytes
from schemas.config import Experiment, Shard
from schemas.stage import read_record
from schemas.workspace import Workspace
from train.engine.cost import flops

RESULTS = Path(__file__).with_name("results")
BLIP2 = 2 * (1.0e9 * 257 + 0.11e9 * 32 + 2.7e9 * (32 + 16))
"""FLOPs of a caption: ViT-g on 257 tokens, the Q-Former on 32, OPT-2.7b on these and 16 words."""
BLIP2_UTILISATION = 0.5  # of the utilisation: words come one by one


class Dataset(NamedTuple):
    train: int  # videos that pretraining and fine-tuning train on
    test: int
    stored: int  # videos in the shards, unlabelled ones among them
    seconds: int
    fps: int
    size: tuple[int, int]  # width, height of the videos as published


DATASETS = {
    "Kinetics-400": Dataset(240_436, 19_796, 260_232, 10, 30, (340, 256)),
    "Something-Something v2": Dataset(168_913, 24_777, 220_847, 4, 12, (427, 240)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--cores", type=int, default=16, help="of the machine for each GPU")
    parser.add_argument("--tflops", type=float, default=312, help="of a GPU: bf16, dense (A100)")
    parser.add_argument("--utilisation", type=float, default=0.4, help="of a GPU")
    parser.add_argument("--measure", type=Path, metavar="WORKSPACE", help="with index and shard done by one process")
    options = parser.parse_args()
    if options.measure:
        (RESULTS / "stages.json").write_text(json.dumps(measured(Workspace(options.measure)), indent=1) + "\n")
    print(table(options.gpus, options.cores, options.tflops, options.utilisation))


def measured(workspace: Workspace) -> dict[str, Any]:
    index, shard = read_record(workspace.manifest), read_record(workspace.clips)
    assert index is not None and shard is not None, "index and shard the workspace first"
    from schemas.tables import CLIP_INDEX, read_table

    frames = sum(read_table(workspace.clips / "index.parquet", CLIP_INDEX).column("frames").to_pylist())
    seconds = sum(shard.info["worker_seconds"].values())
    return {"videos": shard.counts["done"], "frames": frames,
            "index_videos_per_second": round(index.counts["done"] / index.seconds, 1),
            "shard_frames_per_second": round(frames / seconds, 1),
            "bytes": sum(file.bytes for name, file in shard.files.items() if name.endswith(".tar")),
            "data": "clips of UCF101, 320 x 240", "cores": 1}  # fmt: skip


def table(gpus: list[int], cores: int, tflops: float, utilisation: float) -> str:
    """Markdown: a row a stage, its columns hours on so many GPUs and gigabytes, for each data set."""
    rate = tflops * 1e12 * utilisation
    blocks = []
    for name, data in DATASETS.items():
        rows = [_row("", *(f"{count} GPU{'s' * (count > 1)}" for count in gpus), "disk")]
        rows.append("|" + " --- |" * (len(gpus) + 2))
        for stage, (seconds, disk) in costs(name, data, cores, rate).items():
            rows.append(_row(stage, *(_time(seconds / count) for count in gpus), _bytes(disk)))
        blocks.append(f"{name}\n\n" + "\n".join(rows))
    return "\n\n".join(blocks)


def costs(name: str, data: Dataset, cores: int, rate: float) -> dict[str, tuple[float, float]]:
    """By stage: seconds with one GPU, which has so many cores and FLOPs a second, and bytes."""
    stages, stream = _result("stages"), _result("stream")
    maps = _result("score_cost")
    crops = maps["datasets"][name]["crops_a_video"]["offline"]
    experiment = Experiment(workspace="w")
    pretraining, tuning, forward = flops(experiment)
    clips = data.train * experiment.optim.epochs
    loading = stream["clips_per_second_and_core"]["tgmae, top-k"] * cores
    row = {"width": data.size[0], "height": data.size[1], "frames": data.seconds * data.fps, "start": None,
           "end": None}  # fmt: skip
    shards = data.stored * estimated_bytes(row, Shard())
    views = experiment.finetune.temporal_views * experiment.finetune.spatial_views
    tuned = data.train * experiment.finetune.epochs
    probed = (data.train + data.test) * experiment.probe.views
    return {
        "index": (data.stored / (stages["index_videos_per_second"] * cores), 0),
        "captions, BLIP-2, 3 a video": (3 * data.stored * BLIP2 / (rate * BLIP2_UTILISATION), 200 * data.stored),
        "shards": (data.stored * data.seconds * data.fps / (stages["shard_frames_per_second"] * cores), shards),
        "score maps, ViT-B/32, crops": (
            data.stored * crops * maps["gflops_a_crop"] * 1e9 / rate,
            data.stored * maps["datasets"][name]["bytes_a_video"],
        ),
        "pretraining, ViT-B, 200 epochs": (max(clips * pretraining / rate, clips / loading), 4e9),
        "fine-tuning, ViT-B, 100 epochs": (
            max((tuned * tuning + data.test * views * forward) / rate, tuned / loading), 3e9),
        "probe, 2 views": (max(probed * forward / rate, probed / loading), data.stored * 768 * 4),
    }  # fmt: skip


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_bytes())
    return found


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _time(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(seconds / 60, 1):.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 96 * 3600 else f"{seconds / 86400:.0f} d"


def _bytes(size: float) -> str:
    return "" if size == 0 else f"{size / 1e9:.0f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
