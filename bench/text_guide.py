"""What the ways to score patches by text cost, and how well they agree with the paper's in float32.

    python bench/text_guide.py [--data FOLDER] [--model NAME --pretrained TAG] [--device cuda] [--compile]

FOLDER holds class folders of videos, whose names are the texts; without it, videos of the embedded world are drawn,
whose texts name an object. Variants take turns on the same frames, medians over rounds. Agreement is with `crops` in
float32, on the scores before they are stored: Spearman's rank correlation, and the IoU of the masks that hide the
share `--ratio` of a frame's patches; means over captions and frames. object_iou (world only): of the best patches with
those that the named object covers by half, as many. The cache is measured by the stages' own workers: `first` builds
maps from the videos, `build` the cache, `again` maps of other captions from the cache; `kept` what caches of several
`text.cache_kept` agree on and weigh, over `--frames` frames of each video, evenly spaced. Prints JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from pipeline.features import FeaturesWorker
from pipeline.guide import TABLE, GuideWorker, units
from pipeline.guides.cache import MEMBER, CachedFeatures, load_basis
from pipeline.guides.crops import Crops
from pipeline.guides.dense import Dense
from pipeline.guides.encoder import TextEncoder
from pipeline.guides.frames import scored_frames
from pipeline.guides.text import CachedTextGuide, TextGuide
from pipeline.runtime.tars import read_sample
from pipeline.runtime.units import Row, ShardResult, Unit
from pipeline.world.evaluate import top_k_iou
from pipeline.world.truth import load_truth
from pipeline.world.write import write_world
from schemas.config import Experiment, Text
from schemas.shards import quantize
from schemas.tables import CAPTIONS, CLIP_INDEX, FAILURES, read_table, write_table
from schemas.workspace import Workspace, shard_name
from tgmae.demo.demo import demo_experiment
from tgmae.run import run
from train.data.augment import axis_weights

Array = np.ndarray[Any, np.dtype[Any]]
HALF_CROPS = "crops, half the size"
KEPT = (0.99, 0.996, 0.998, 0.9995, 0.9999)  # shares of the variance, next to the default


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="class folders of videos")
    parser.add_argument("--model", help="open_clip architecture or local-dir:FOLDER; default: the embedded one")
    parser.add_argument("--pretrained", default="openai")
    parser.add_argument("--videos", type=int, default=24, help="at most")
    parser.add_argument("--frames", type=int, default=4, help="scored frames of a video, at most, for the variants")
    parser.add_argument("--frame-stride", type=int, default=4)
    parser.add_argument("--patch", type=int, help="pixels; default: 16, of the world 8")
    parser.add_argument("--ratio", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="a compiled variant, too: takes minutes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder)), indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    data = options.data or folder / "world"
    if options.data is None:
        write_world(data, videos=options.videos, test_share=0.99)  # the model has seen no test video
    experiment = with_clips(options, folder, data)
    clips = Workspace(Path(experiment.workspace)).clips
    rows = read_table(clips / TABLE, CLIP_INDEX).to_pylist()[: options.videos]
    said = texts(data, rows) if options.data is None else {row["key"]: row["label_text"] for row in rows}
    frames = {row["key"]: some_frames(clips, row, options) for row in rows}
    truth = {row["key"]: objects(data, row, options) for row in rows} if options.data is None else None
    return {
        "variants": variants(experiment.text, frames, said, truth, experiment.shard.short_side, options),
        "cache": cache(experiment.text, clips, rows, said, folder, options),
        "model": options.model or "embedded world model: ViT of 3 layers, 32 px, patches of 8 px, width 64",
        "data": f"{len(rows)} videos, {options.data.name if options.data else 'embedded world'}, "
        f"short side {experiment.shard.short_side}",
        "patch": experiment.text.patch, "frame_stride": options.frame_stride, "ratio": options.ratio,
        "rounds": options.rounds, "machine": machine(options.device), "torch": torch.__version__,
    }  # fmt: skip


def with_clips(options: argparse.Namespace, folder: Path, data: Path) -> Experiment:
    """An experiment whose clips are made."""
    world = options.data is None
    patch = options.patch or (8 if world else 16)
    overrides = [f"shard.short_side={64 if world else 256}", f"text.patch={patch}", "shard.max_videos=4096",
                 f"text.frame_stride={options.frame_stride}", f"text.device={options.device}"]  # fmt: skip
    if options.model:
        overrides += [f"text.model={options.model}", f"text.pretrained={options.pretrained}"]
    experiment = demo_experiment(folder, data, overrides)
    run(experiment, partial(print, file=sys.stderr), only=("index", "shard"))
    return experiment


def texts(world: Path, rows: list[Row]) -> dict[str, str]:
    plan = json.loads((world / "truth" / "world.json").read_bytes())["videos"]
    captions = {entry["path"]: entry["caption"] for entry in plan}
    return {row["key"]: captions[str(Path(row["video_id"]).with_suffix(""))] for row in rows}


def some_frames(clips: Path, row: Row, options: argparse.Namespace) -> Array:
    with open(clips / shard_name(row["shard"]), "rb") as tar:
        sample = read_sample(tar, row["offset"], row["length"], row["key"])
    frames = np.concatenate(list(scored_frames(sample["mp4"], options.frame_stride, row["frames"])))
    return frames[evenly(len(frames), options.frames)]


def objects(world: Path, row: Row, options: argparse.Namespace) -> Callable[[int, int], Array]:
    """Which cells the named object covers by half: bool [F, cells] of a grid."""
    visible_THW = load_truth((world / "truth" / row["video_id"]).with_suffix(".npz"))[:: options.frame_stride]
    visible_FHW = visible_THW[evenly(len(visible_THW), options.frames)]

    def covered(gh: int, gw: int) -> Array:
        rows, columns = (axis_weights(0, 1, side, to) for side, to in zip(visible_FHW.shape[1:], (gh, gw), strict=True))
        return (rows @ visible_FHW.astype(np.float64) @ columns.T >= 0.5).reshape(len(visible_FHW), -1)

    return covered


def evenly(count: int, wanted: int) -> Array:
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))


def variants(
    text: Text,
    frames: dict[str, Array],
    said: dict[str, str],
    truth: dict[str, Callable[[int, int], Array]] | None,
    side: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    chosen = named_variants(text, side, options)
    encoders = {name: TextEncoder(each) for name, each in chosen.items()}
    known = {name: {said[key]: each.text_embeddings([said[key]]) for key in frames} for name, each in encoders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    scores: dict[str, dict[str, Array]] = {}
    for number in range(options.rounds + 1):
        for name, encoder in encoders.items():
            began = time.perf_counter()
            scores[name] = {key: encoder.score_frames(frames[key], known[name][said[key]])[0] for key in frames}
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    reference = scores["crops, float32"]
    count = sum(map(len, frames.values()))
    found: dict[str, Any] = {}
    for name in chosen:
        rate, cells = count / statistics.median(seconds[name]), sum(each.size for each in scores[name].values()) / count
        found[name] = {"frames_per_second": round(rate, 2), "cells_a_frame": round(cells, 1)}
        if chosen[name].method == "crops":
            found[name]["crops_per_second"] = round(rate * cells, 1)
        if chosen[name].pitch == text.pitch:
            found[name] |= agreement(reference, scores[name], options.ratio)
        if truth is not None:
            each = [
                top_k_iou(score.reshape(len(score), -1), truth[key](*score.shape[1:]))
                for key, score in scores[name].items()
            ]
            found[name]["object_iou"] = round(float(np.nanmean(each)), 4)
    return found


def named_variants(text: Text, side: int, options: argparse.Namespace) -> dict[str, Text]:
    def of(**changes: Any) -> Text:
        return Text.model_validate({**text.model_dump(), **changes})

    crops, dense = TextEncoder(text).cells, TextEncoder(of(method="dense")).cells
    assert isinstance(crops, Crops) and isinstance(dense, Dense)
    found = {
        "crops, float32": text,
        "crops, bfloat16": of(precision="bfloat16"),
        "crops, float16": of(precision="float16"),
        HALF_CROPS: of(crop_size=crops.input_size // 2),
        "crops, grid_stride of half a patch": of(grid_stride=text.patch // 2),
        "dense, original": of(method="dense", attention="original"),
        "dense, value (MaskCLIP)": of(method="dense"),
        "dense, query-query": of(method="dense", attention="query-query"),
        "dense, query-query+key-key (SCLIP)": of(method="dense", attention="query-query+key-key"),
        "dense, query-query, attention alone (ClearCLIP)": of(
            method="dense", attention="query-query", last_block="attention"
        ),
        "dense, value, attention alone": of(method="dense", last_block="attention"),
        "dense, value, four tokens a patch": of(method="dense", resolution=2 * side * dense.token_size // text.patch),
    }
    return found | ({"crops, compiled": of(compile=True)} if options.compile else {})


def agreement(reference: dict[str, Array], found: dict[str, Array], ratio: float) -> dict[str, float]:
    """Of maps [..., gh, gw] by name."""
    correlations, ious = [], []
    for key, maps in reference.items():
        pairs = (each.reshape(-1, maps.shape[-2] * maps.shape[-1]) for each in (maps, found[key]))
        for one, other in zip(*pairs, strict=True):
            correlations.append(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
            k = round(ratio * len(one))
            best = [set(np.argsort(-each, kind="stable")[:k].tolist()) for each in (one, other)]
            ious.append(len(best[0] & best[1]) / len(best[0] | best[1]))
    return {"rank_correlation": round(float(np.mean(correlations)), 4), "mask_iou": round(float(np.mean(ious)), 4)}


def cache(
    text: Text, clips: Path, rows: list[Row], said: dict[str, str], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """The cache against maps made from the videos, both with captions that it was not made for."""
    encoder = TextEncoder(text)
    first, again = ({key: each.format(said[key]) for key in said} for each in ("{}", "a video of {}"))
    captions = [write_captions(folder / name, rows, each) for name, each in (("first", first), ("again", again))]
    features = folder / "features"
    shards = units(rows)

    def guide(source: Any, where: Path, out: str, captions: Path, read: Any, member: str, units: list[Unit]) -> Any:
        return timed(GuideWorker(source, where, captions, folder / out, text.frame_stride, read, member), units)

    direct = guide(TextGuide(encoder), clips, "a", captions[0], scored_frames, "mp4", shards)
    embed = remembered(encoder.features)
    build = timed(FeaturesWorker(embed, clips, features, text), shards)
    places = [{**row, **place} for row, place in zip(rows, build["rows"], strict=True)]
    cached = guide(
        CachedTextGuide(encoder), features, "b", captions[1], CachedFeatures(features), MEMBER, units(places)
    )
    exact = {row["key"]: TextGuide(encoder).score([some_frames(clips, row, options)], [again[row["key"]]]).maps
             for row in rows}  # fmt: skip
    stored = {key: quantize(maps)[0].astype(np.float32) for key, maps in exact.items()}

    def kept(share: float) -> dict[str, Any]:
        """Of a cache that keeps so much of the variance."""
        where = folder / f"features-{share}"
        made = timed(FeaturesWorker(embed, clips, where, text.model_copy(update={"cache_kept": share})), shards)
        maps: dict[str, Array] = {}
        for row, place in zip(rows, made["rows"], strict=True):
            codes = CachedFeatures(where)(read(where, place)[MEMBER], text.frame_stride, row["frames"])
            found = CachedTextGuide(encoder).score(codes, [again[row["key"]]]).maps
            maps[row["key"]] = found[:, evenly(found.shape[1], options.frames)]
        dims = [load_basis(path).axes_Dd.shape for path in sorted(where.glob("*.basis.npz"))]
        return {
            "directions": f"{max(each[1] for each in dims)} of {dims[0][0]}",
            "cache_over_video": round(cache_length(where, made["rows"]) / mean_length(rows), 3),
            **agreement(exact, maps, options.ratio),
        }

    size = {"video": mean_length(rows), "maps": mean_length(direct["rows"]),
            "cache": cache_length(features, build["rows"])}  # fmt: skip
    return {
        "seconds": {"first": round(direct["seconds"], 3), "build": round(build["seconds"], 3),
                    "again": round(cached["seconds"], 3)},
        "again_over_first": round(cached["seconds"] / direct["seconds"], 4),
        "build_over_first": round(build["seconds"] / direct["seconds"], 3),
        "bytes_a_video": {name: round(each) for name, each in size.items()},
        "bits": text.cache_bits, "default_kept": text.cache_kept,
        "kept": {str(share): kept(share) for share in sorted({*KEPT, text.cache_kept})},
        "maps_in_a_byte": agreement(exact, stored, options.ratio),
    }  # fmt: skip


def remembered(embed: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The same embeddings of the same frames, computed once."""
    known: dict[bytes, Array] = {}

    def look_up(frames: Array) -> Array:
        name = hashlib.sha256(frames).digest()
        if name not in known:
            known[name] = embed(frames)
        return known[name]

    return look_up


def cache_length(folder: Path, rows: list[Row]) -> float:
    """Bytes a video, its share of the bases with it."""
    return mean_length(rows) + sum(path.stat().st_size for path in folder.glob("*.basis.npz")) / len(rows)


def timed(worker: FeaturesWorker | GuideWorker, units: list[Unit]) -> dict[str, Any]:
    began = time.perf_counter()
    results = [event for unit in units for event in worker.run(unit) if isinstance(event, ShardResult)]
    assert not any(result.failures for result in results), results[0].failures
    return {"seconds": time.perf_counter() - began, "rows": [row for result in results for row in result.rows]}


def read(folder: Path, row: Row) -> dict[str, bytes]:
    with open(folder / shard_name(row["shard"]), "rb") as tar:
        return read_sample(tar, row["offset"], row["length"], row["key"])


def mean_length(rows: list[Row]) -> float:
    return float(np.mean([row["length"] for row in rows]))


def write_captions(folder: Path, rows: list[Row], said: dict[str, str]) -> Path:
    captions = [
        {"key": row["key"], "video_id": row["video_id"], "caption": 0, "text": said[row["key"]]} for row in rows
    ]
    write_table(folder / "captions.parquet", captions, CAPTIONS)
    write_table(folder / "failures.parquet", [], FAILURES)
    return folder


def machine(device: str) -> str:
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name()
    return f"{name}; {os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()}"


if __name__ == "__main__":
    main()
