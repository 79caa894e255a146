"""How fast the trainer's clips come out of the shards, knob by knob, next to the way of the original VideoMAE loader.

    python bench/stream.py [--data FOLDER] [--videos 32] [--rounds 5]

FOLDER holds class folders of videos; without it, videos of the embedded world are drawn. Their first stages are run,
then clips of VideoMAE's sizes (16 frames at 224 px, every 4th frame) are read by one process: clips a second of
processor time, medians over rounds that take the variants in turn. Then by loader processes. Prints JSON.

"original": decord over the source file, every frame cropped and resized by PIL, floats normalised in the loader, as
VideoMAE's code does. "webdataset of sources": the same on source files that lie in a tar.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import decord
import numpy as np
import pyarrow as pa
import torch
import webdataset as wds
from PIL import Image

from pipeline.world.write import write_world
from schemas.config import Experiment
from schemas.workspace import Workspace
from tgmae.demo.demo import demo_experiment
from tgmae.run import run
from train.data.augment import Crop, multi_scale_crop, resize_crop
from train.data.reading import decode, read_clip
from train.data.sampling import BatchPlan, generator, random_frames
from train.data.stream import ClipDataset, stream
from train.data.videos import open_videos
from train.masking.masks import make_mask
from train.models.cubes import normalise
from train.models.objective import model_config

SIZES = [
    "clip.size=224", "clip.frames=16", "clip.stride=4", "clip.flip=true", "clip.scales=[1.0, 0.875, 0.75, 0.66]",
    "model.size=base", "model.patch=16", "shard.short_side=256", "shard.max_videos=16", "guide=motion-vectors",
    "mask.kind=motion-vectors", "mask.text_share=[1,1]", "objective.contrastive=0",
    "ray.address=none",
]  # fmt: skip
STORED = {  # another way to store, tube masks -> what it changes
    "long groups of pictures": ("shard.gop=250",),
    "groups of 4": ("shard.gop=4",),
    "fastdecode": ("shard.tune=fastdecode",),
    "every 2nd frame": ("shard.frame_step=2", "clip.stride=2"),
    "every 2nd frame, fastdecode": ("shard.frame_step=2", "clip.stride=2", "shard.tune=fastdecode"),
    "every 4th frame": ("shard.frame_step=4", "clip.stride=1"),
    "short side 224": ("shard.short_side=224",),
    "B-frames": ("shard.bframes=3",),
    "B-frames, fastdecode": ("shard.bframes=3", "shard.tune=fastdecode"),
}
SHORT = {"original", "tgmae, tube", "tgmae, top-k", "tgmae, top-k, decord", "fastdecode", "tube, fastdecode"}
Read = Callable[[int, int], object]  # (epoch, row)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="class folders of videos")
    parser.add_argument("--videos", type=int, default=32, help="at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="only what bench/gates.toml asks for")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            data = Path(folder) / "world"
            write_world(data, videos=options.videos, size=360, frames=150, fps=25, test_share=0.25)
        experiment = built(Path(folder) / "short", data)
        stored = {name: built(Path(folder) / name, data, *changes, "guide=none", "mask.kind=tube")
                  for name, changes in STORED.items() if not options.short or name in SHORT}  # fmt: skip
        print(json.dumps(measure(experiment, stored, data, Path(folder), options), indent=1))


def built(out: Path, data: Path, *overrides: str) -> Experiment:
    """An experiment whose stages up to the guide are done."""
    experiment = demo_experiment(out, data, [*SIZES, *overrides])
    run(experiment, partial(print, file=sys.stderr), only=("index", "shard", "guide"))
    return experiment


def measure(
    experiment: Experiment, stored: dict[str, Experiment], data: Path, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    torch.set_num_threads(1)
    dataset = clips(experiment, options.videos)
    sources = [data / str(video) for video in dataset.videos.strings("video_id")]
    tar = folder / "sources.tar"
    with wds.TarWriter(str(tar), encoder=False) as writer:
        for number, path in enumerate(sources):
            writer.write({"__key__": f"{number:06d}", "mp4": path.read_bytes()})
    variants: dict[str, tuple[Read, int]] = {  # what reads, and how many clips it gives
        "original": (lambda epoch, row: original(sources[row], experiment, epoch, row), 1),
        "webdataset of sources": (tarred(tar, experiment), 1),
        "tgmae, tube": (clips(masked(experiment, "tube"), options.videos).samples, 1),
        "tgmae, top-k": (dataset.samples, 1),
        "tgmae, 2 repeats": (clips(repeated(experiment, 2), options.videos).samples, 2),
        "tgmae, 4 repeats": (clips(repeated(experiment, 4), options.videos).samples, 4),
        "tgmae, top-k, decord": (clips(by_decord(experiment), options.videos).samples, 1),
        "but all frames of the window decoded": (lambda epoch, row: whole_window(dataset, epoch, row), 1),
        "but resized before cropped": (lambda epoch, row: resized_first(dataset, epoch, row), 1),
        "but floats, normalised in the loader": (lambda epoch, row: floats(dataset, epoch, row), 1),
        "decoding alone": (lambda epoch, row: decoded(dataset, epoch, row), 1),
        **{f"tube, {name}": (clips(each, options.videos).samples, 1) for name, each in stored.items()},
    }  # fmt: skip
    if options.short:
        variants = {name: each for name, each in variants.items() if name in SHORT}
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for epoch in range(options.rounds):
        for name, (read, count) in variants.items():
            began = time.process_time()  # of all threads: decord has some of its own
            for row in range(len(sources)):
                read(epoch, row)
            rates[name].append(count * len(sources) / (time.process_time() - began))
    median = {name: round(statistics.median(values), 1) for name, values in rates.items()}

    def over(ours: str, theirs: str) -> float:
        """Paired by round."""
        return round(statistics.median(a / b for a, b in zip(rates[ours], rates[theirs], strict=True)), 2)

    ratios = {
        "clips_per_second_and_core": median,
        "top_k_over_original": over("tgmae, top-k", "original"),
        "pyav_over_decord": over("tgmae, top-k", "tgmae, top-k, decord"),
        "over_tube": {name: over(f"tube, {name}", "tgmae, tube") for name in stored},
    }
    if options.short:
        return ratios
    return {
        **ratios,
        "stored": {name: about(clips(each, options.videos), sources)
                   for name, each in {"as it is": experiment, **stored}.items()},
        "loader": {f"{workers} workers": loader(dataset, workers) for workers in (1, 2)},
        "memory_by_videos": {str(count): memory(dataset, count) for count in (len(sources), 10_000, 240_000)},
        "clip": "16 frames of 224 px, stride 4", "shards": "short side 256, a key frame every 12 frames",
        "sources": f"{len(sources)} videos, {options.data.name if options.data else 'world at 360 px'}",
        "sources_megabytes": round(sum(map(os.path.getsize, sources)) / 1e6, 2),
        "rounds": options.rounds, "cores": os.cpu_count(),
    }  # fmt: skip


def clips(experiment: Experiment, videos: int) -> ClipDataset:
    opened = open_videos(Workspace(Path(experiment.workspace)), experiment.guide_name, experiment.text_name)
    chosen = np.arange(len(opened)) < videos
    return ClipDataset(opened.where(chosen), experiment, model_config(experiment).grid)


def masked(experiment: Experiment, kind: str) -> Experiment:
    return experiment.model_copy(update={"mask": experiment.mask.model_copy(update={"kind": kind})})


def repeated(experiment: Experiment, repeats: int) -> Experiment:
    return experiment.model_copy(update={"clip": experiment.clip.model_copy(update={"repeats": repeats})})


def by_decord(experiment: Experiment) -> Experiment:
    return experiment.model_copy(update={"pretrain": experiment.pretrain.model_copy(update={"decoder": "decord"})})


def about(dataset: ClipDataset, sources: list[Path]) -> dict[str, float]:
    """Of the stored clips."""
    return {"megabytes": round(int(dataset.videos.column("length").sum()) / 1e6, 2),
            "psnr_db": psnr(dataset, sources, dataset.experiment.shard.frame_step)}  # fmt: skip


def original(source: Path | io.BytesIO, experiment: Experiment, epoch: int, row: int) -> Any:
    """A clip as VideoMAE's loader makes it from a video file, and its tube mask."""
    clip, rng = experiment.clip, generator(0, epoch, row)
    reader = decord.VideoReader(str(source) if isinstance(source, Path) else source, num_threads=1, ctx=decord.cpu(0))
    frames_T = random_frames(len(reader), frames=clip.frames, stride=clip.stride, rng=rng)
    pictures = [Image.fromarray(frame) for frame in reader.get_batch(frames_T.tolist()).asnumpy()]
    crop = multi_scale_crop(*pictures[0].size, size=clip.size, scales=clip.scales, rng=rng, flip=False)
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    small = [picture.crop(box).resize((clip.size, clip.size), Image.Resampling.BILINEAR) for picture in pictures]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in small])).permute(3, 0, 1, 2).contiguous()
    mean, std = (torch.tensor(each).view(3, 1, 1, 1) for each in (MEAN, STD))
    mask = make_mask("tube", ratio=0.9, shape=model_config(experiment).grid, rng=rng)
    return pixels.float().div(255).sub_(mean).div_(std), mask


def tarred(tar: Path, experiment: Experiment) -> Read:
    """The same out of a tar, read from front to back by webdataset."""
    state: dict[int, Any] = {}

    def read(epoch: int, row: int) -> object:
        if row == 0:
            state[0] = iter(wds.WebDataset(str(tar), shardshuffle=False))
        return original(io.BytesIO(next(state[0])["mp4"]), experiment, epoch, row)

    return read


def decoded(dataset: ClipDataset, epoch: int, row: int, *, window: bool = False) -> np.ndarray[Any, Any]:
    place, clip = dataset.videos.clip_place(row), dataset.experiment.clip
    meta, mp4 = read_clip(place)
    rng = generator(0, epoch, place.key)
    frames_T = random_frames(meta.frames, frames=clip.frames, stride=clip.stride, rng=rng)
    if window:
        every = np.arange(frames_T[0], frames_T[-1] + 1)
        return decode(mp4, every, meta, str(place))[frames_T - frames_T[0]]
    return decode(mp4, frames_T, meta, str(place))


def crop_of(dataset: ClipDataset, epoch: int, row: int, width: int, height: int) -> Crop:
    clip = dataset.experiment.clip
    return multi_scale_crop(width, height, size=clip.size, scales=clip.scales, rng=generator(1, epoch, row), flip=True)


def whole_window(dataset: ClipDataset, epoch: int, row: int) -> Any:
    pixels = decoded(dataset, epoch, row, window=True)
    return resize_crop(pixels, crop_of(dataset, epoch, row, pixels.shape[2], pixels.shape[1]), 224), mask(dataset)


def resized_first(dataset: ClipDataset, epoch: int, row: int) -> Any:
    """The whole frame enlarged as much as the crop will be, then cut."""
    pixels = decoded(dataset, epoch, row)
    height, width = pixels.shape[1:3]
    crop = crop_of(dataset, epoch, row, width, height)
    scale = 224 / crop.width
    whole = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    sizes = [max(round(side * scale), 224) for side in (height, width)]
    large = torch.nn.functional.interpolate(whole, size=sizes, mode="bilinear", antialias=True)
    top, left = round(crop.top * scale), round(crop.left * scale)
    return large[:, :, top : top + 224, left : left + 224].permute(0, 2, 3, 1).contiguous(), mask(dataset)


def floats(dataset: ClipDataset, epoch: int, row: int) -> Any:
    pixels = decoded(dataset, epoch, row)
    clip = resize_crop(pixels, crop_of(dataset, epoch, row, pixels.shape[2], pixels.shape[1]), 224)
    return normalise(clip), mask(dataset)


def mask(dataset: ClipDataset) -> Any:
    return make_mask("tube", ratio=0.6, shape=dataset.grid, rng=np.random.default_rng(0))


def psnr(dataset: ClipDataset, sources: list[Path], step: int) -> float:
    """Of the stored clips' frames against the source's, scaled to the same size; mean over videos, dB."""
    values = []
    for row, source in enumerate(sources[:16]):
        meta, mp4 = read_clip(dataset.videos.clip_place(row))
        reader = decord.VideoReader(str(source), num_threads=1, ctx=decord.cpu(0))
        if -(-len(reader) // step) != meta.frames:
            continue  # decoders count the frames of some files differently: not the same pictures
        frames = np.linspace(0, meta.frames - 1, 8).astype(np.int64)
        theirs = torch.from_numpy(reader.get_batch((step * frames).tolist()).asnumpy()).permute(0, 3, 1, 2)
        ours = torch.from_numpy(decode(mp4, frames, meta, "psnr")).permute(0, 3, 1, 2)
        if (theirs.shape[2] < theirs.shape[3]) != (ours.shape[2] < ours.shape[3]):
            continue  # rotated
        same = torch.nn.functional.interpolate(theirs, size=list(ours.shape[2:]), mode="bicubic", antialias=True)
        error = (same.float() - ours.float()).square().mean(dim=(1, 2, 3)).clamp(min=1e-3)
        values.append(float((10 * torch.log10(255**2 / error)).mean()))
    return round(statistics.mean(values), 1)


def loader(dataset: ClipDataset, workers: int) -> dict[str, float]:
    """Clips a second through loader processes, seconds to the first batch, megabytes of each process."""
    plan = BatchPlan(shards=dataset.videos.column("shard"), seed=0, epochs=6, batch_size=4)
    began = time.perf_counter()
    batches = stream(dataset, plan, workers=workers, pin=False)
    next(batches)
    first, count = time.perf_counter() - began, 0
    began = time.perf_counter()
    peak = 0.0
    for batch in batches:
        count += len(batch.keys)
        peak = max(peak, *map(resident, children()))
    return {"clips_per_second": round(count / (time.perf_counter() - began), 1),
            "seconds_to_first_batch": round(first, 2), "megabytes_a_process": round(peak, 0)}  # fmt: skip


def memory(dataset: ClipDataset, count: int) -> float:
    """Megabytes that a loader process has of its own when the index names so many videos."""
    videos = dataset.videos
    times = -(-count // len(videos))
    larger = replace(dataset, videos=replace(
        videos, clips=pa.concat_tables([videos.clips] * times).combine_chunks(),
        sidecars=()), experiment=masked(dataset.experiment, "tube"))  # fmt: skip
    plan = BatchPlan(shards=larger.videos.column("shard"), seed=0, epochs=1, batch_size=4)
    batches = stream(larger, plan, workers=1, pin=False)
    for _ in range(min(4, len(plan))):
        next(batches)
    return round(max(map(private, children())), 0)


def children() -> list[int]:
    own = Path(f"/proc/{os.getpid()}/task")
    return [int(pid) for task in own.iterdir() for pid in (task / "children").read_text().split()]


def resident(pid: int) -> float:
    return _kilobytes(pid, "Rss:") / 1024


def private(pid: int) -> float:
    """Not shared with the process it was forked from."""
    return (_kilobytes(pid, "Private_Clean:") + _kilobytes(pid, "Private_Dirty:")) / 1024


def _kilobytes(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
