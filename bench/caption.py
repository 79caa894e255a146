"""What captioning costs apart from the model: Ray's overhead, the wait for frames, and what more actors bring.

    python bench/caption.py [--data FOLDER] [--model NAME_OR_FOLDER] [--rounds 3]

FOLDER holds class folders of videos; without it, videos of the embedded world are drawn. Without --model, BLIP-2 with
random weights is made, of the real architecture at a middling size (ViT of 12 layers at 224 px, Q-Former of 6, OPT of
6): dear enough for a CPU that the model decides, as the published one does on a GPU. Every variant captions the same
shards: the worker in a plain loop, and in 1 and more Ray actors, in turn; one torch thread each, as Ray gives an actor
of one CPU. Rates are taken between results, after each actor's first, so that starting up is left out; `start` is that
time. Medians over rounds. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.caption import CaptionWorker, caption_units
from pipeline.caption_sets import group_videos
from pipeline.index import run_index
from pipeline.runtime.engine import execute
from pipeline.runtime.parts import Parts
from pipeline.runtime.ray_session import connected
from pipeline.runtime.units import Made, Unit, Worker
from pipeline.world.write import write_world
from schemas.config import Caption, Experiment, Ray
from schemas.tables import MANIFEST, read_table
from tgmae.shipped_files import WORLD_MODELS

EMBEDDED = WORLD_MODELS / "blip2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="class folders of videos")
    parser.add_argument("--videos", type=int, default=48, help="at most")
    parser.add_argument("--shard", type=int, default=8, help="videos of a shard")
    parser.add_argument("--model", help="of BLIP-2; 'embedded' is the demo's own")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=12, help="of a caption")
    parser.add_argument("--threads", type=int, default=2, help="that decode")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder)), indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    data = options.data or folder / "world"
    if options.data is None:
        write_world(data, videos=options.videos, size=256, frames=90, fps=25, test_share=0.25)
    experiment = Experiment.model_validate({"workspace": str(folder / "w"), "index": {"data": str(data)},
                                            "max_failures": "100%"})  # fmt: skip
    run_index(experiment)
    manifest = read_table(folder / "w" / "manifest" / "manifest.parquet", MANIFEST).to_pylist()[: options.videos]
    model = {None: "", "embedded": str(EMBEDDED)}.get(options.model, options.model) or middling(folder / "blip2")
    blip2 = {"model": model, "device": options.device, "batch_size": options.batch_size,
             "max_new_tokens": options.tokens, "min_new_tokens": options.tokens}  # fmt: skip
    caption = Caption.model_validate({"blip2": blip2, "decode_threads": options.threads})
    units, worker = caption_units(manifest, options.shard), partial(made_worker, caption, data.resolve())
    bare = worker()
    runs: dict[str, Callable[[], dict[str, float]]] = {"loop": lambda: timed(loop(bare, units), 1)}
    for count in options.actors:
        runs[f"ray_{count}"] = partial(on_ray, units, worker, count)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    with connected(Ray()):
        for _ in range(options.rounds):
            for name, run in runs.items():
                found[name].append(run())
    overheads = [ray["seconds"] / one["seconds"] - 1 for one, ray in zip(found["loop"], found["ray_1"], strict=True)]
    return {
        "variants": {name: {key: round(statistics.median(each[key] for each in rounds), 4) for key in rounds[0]}
                     for name, rounds in found.items()},
        "ray_overhead": round(statistics.median(overheads), 4),
        "ray_overhead_rounds": [round(each, 4) for each in overheads],
        "model": options.model or "BLIP-2, random weights, middling size",
        "data": f"{len(manifest)} videos of {options.data.name if options.data else 'the embedded world, 256 px'}, "
        f"shards of {options.shard}",
        "batch_size": options.batch_size, "tokens": options.tokens, "decode_threads": options.threads,
        "rounds": options.rounds, "torch": torch.__version__,
        "machine": f"{options.device}; {os.cpu_count()} cores, {platform.machine()}",
    }  # fmt: skip


def made_worker(caption: Caption, data: Path) -> Worker:
    from pipeline.captioners.blip2 import Blip2Captioner

    group = group_videos(caption.keyframes, caption.blip2.batch_size)
    return CaptionWorker(Blip2Captioner(caption.blip2), data, caption, group)


def loop(worker: Worker, units: list[Unit]) -> Iterator[int | Made]:
    for unit in units:
        for event in worker.run(unit):
            yield event if isinstance(event, int) else Made(unit, event)


def on_ray(units: list[Unit], worker: Callable[[], Worker], actors: int) -> dict[str, float]:
    return timed(execute(Parts(units, 0), worker, Ray(workers=actors), holds_model=True), actors)


def timed(events: Iterator[int | Made], workers: int) -> dict[str, float]:
    """Of the results after each worker's first: seconds, captions a second, the share of time that frames took."""
    began, done = time.perf_counter(), []
    for event in events:
        if isinstance(event, Made):
            done.append((time.perf_counter(), event.result))
    (first, _), rest = done[workers - 1], done[workers:]
    seconds = rest[-1][0] - first
    read, compute = (sum(result.seconds[key] for _, result in rest) for key in ("read", "compute"))
    return {
        "seconds": seconds,
        "captions_per_second": sum(len(result.rows) for _, result in rest) / seconds,
        "waiting_for_frames": read / (read + compute),
        "start": first - began,
    }


def middling(folder: Path) -> str:
    """BLIP-2 with random weights, saved with the embedded model's tokenizer."""
    from transformers import AutoProcessor, Blip2Config, Blip2ForConditionalGeneration

    processor = AutoProcessor.from_pretrained(EMBEDDED)
    config = Blip2Config.from_pretrained(EMBEDDED)
    tower = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6}
    for section, changes in (
        (config.vision_config, {**tower, "image_size": 224, "patch_size": 14}),
        (config.qformer_config, {**tower, "num_hidden_layers": 6, "encoder_hidden_size": 384}),
        (config.text_config, {"hidden_size": 384, "word_embed_proj_dim": 384, "ffn_dim": 1536, "num_hidden_layers": 6,
                              "num_attention_heads": 6}),
    ):  # fmt: skip
        for name, value in changes.items():
            setattr(section, name, value)
    torch.manual_seed(0)
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    processor.image_processor.size = {"height": 224, "width": 224}
    processor.save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main()
