"""A tiny workspace, its shards written here directly: the trainer is tested without the pipeline."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import webdataset as wds

from schemas.config import Experiment
from schemas.shards import ClipMeta, GuideMeta, meta_bytes, npy_bytes, quantize
from schemas.stage import StageRecord, write_record
from schemas.tables import CLIP_INDEX, GUIDE_INDEX, read_table, video_key, write_table
from schemas.workspace import Workspace, shard_name

# Threads that wait for one another spin: on a busy machine two are ten times slower than one.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

WIDTH, HEIGHT, STRIDE, TEXT = 96, 64, 2, 12  # of the videos; of the maps; of the text embeddings
CLASSES = ("slow", "fast")
SMALL: dict[str, dict[str, Any]] = {
    "clip": {"frames": 4, "stride": 2, "size": 32},
    "model": {"size": "tiny", "patch": 8},
    "optim": {"epochs": 3, "batch_size": 4, "warmup_epochs": 1, "base_lr": 0.02},
    "pretrain": {"workers": 0, "device": "cpu", "precision": "float32", "log_every": 1, "save_every": 2,
                 "shuffle_shards": 2},
    "probe": {"views": 2, "batch_size": 4},
}  # fmt: skip


def picture(number: int, frame: int, speed: int) -> np.ndarray[Any, Any]:
    """A bar that moves over a grey whose level is the frame's number: [H, W, 3] uint8."""
    image = np.full((HEIGHT, WIDTH, 3), 20 + 6 * frame, np.uint8)
    left = (7 * number + speed * frame) % WIDTH
    image[16:48, left : left + 16, number % 3] = 250
    return image


def encode(frames: list[np.ndarray[Any, Any]]) -> bytes:
    """x264 with short closed groups of pictures, as the shard stage writes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(12))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "12", "preset": "ultrafast", "g": "12", "bf": "2", "flags": "+cgop"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def write_tar(path: Path, samples: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """An uncompressed tar of raw members; (offset, length) of each key's slice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file, wds.TarWriter(file, encoder=False, mtime=0.0) as writer:
        for sample in samples:
            writer.write(sample)
    spans: dict[str, tuple[int, int]] = {}
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            key = member.name.partition(".")[0]
            start = spans.get(key, (member.offset, 0))[0]
            spans[key] = start, member.offset_data + -(-member.size // 512) * 512 - start
    return spans


def record(folder: Path, stage: str, output: str, **inputs: str) -> None:
    write_record(folder, StageRecord(stage=stage, fingerprint=output, config={}, inputs=inputs, output=output,
                                     counts={}, failed={}, tools={}, seconds=0))  # fmt: skip


def write_workspace(root: Path, *, videos: int = 14, per_shard: int = 4, short: int = 3, unguided: int = 5,
                    splits: bool = False) -> Workspace:  # fmt: skip
    """Video `short` has 3 frames, the others 20; video `unguided` has no score map; two captions each."""
    workspace, rng = Workspace(root), np.random.default_rng(0)
    clip_rows, guide_rows = [], []
    for shard in range(-(-videos // per_shard)):
        clips, guides, metas = [], [], []
        for number in range(shard * per_shard, min((shard + 1) * per_shard, videos)):
            name, label = f"{CLASSES[number % 2]}/{number:03d}.mp4", number % 2
            key, count = video_key(name), 3 if number == short else 20
            split = ("test" if number % 4 >= 2 else "train") if splits else ""
            meta = ClipMeta(video_id=name, frames=count, fps=12.0, width=WIDTH, height=HEIGHT, label=label,
                            label_text=CLASSES[label], split=split)  # fmt: skip
            mp4 = encode([picture(number, frame, 1 + 3 * label) for frame in range(count)])
            clips.append({"__key__": key, "json": meta_bytes(meta), "mp4": mp4})
            guide: dict[str, Any] = {"video_id": name, "frames": count, "frame_stride": STRIDE}
            if number == unguided:
                guides.append({"__key__": key, "json": meta_bytes(GuideMeta(**guide, missing="no caption"))})
            else:
                scores = rng.normal(size=(2, -(-count // STRIDE), HEIGHT // 8, WIDTH // 8)).astype(np.float32)
                stored, scale, offset = quantize(scores)
                texts = [f"a {CLASSES[label]} bar", f"bar {number}"]
                json_bytes = meta_bytes(GuideMeta(**guide, captions=texts, scale=scale, offset=offset))
                text = rng.normal(size=(2, TEXT)).astype(np.float16)
                guides.append({"__key__": key, "json": json_bytes, "scores.npy": npy_bytes(stored),
                               "text.npy": npy_bytes(text)})  # fmt: skip
            metas.append(meta)
        clip_spans = write_tar(workspace.clips / shard_name(shard), clips)
        guide_spans = write_tar(workspace.guide("text-blip2") / shard_name(shard), guides)
        for meta, sample in zip(metas, guides, strict=True):
            key = sample["__key__"]
            place = {"key": key, "shard": shard, "offset": clip_spans[key][0], "length": clip_spans[key][1]}
            clip_rows.append(
                {**place, **meta.model_dump(include={"video_id", "frames", "label", "label_text", "split"})}
            )
            guide_rows.append({"key": key, "shard": shard, "offset": guide_spans[key][0],
                               "length": guide_spans[key][1], "maps": 2 * ("scores.npy" in sample)})  # fmt: skip
    write_table(workspace.clips / "index.parquet", clip_rows, CLIP_INDEX)
    write_table(workspace.guide("text-blip2") / "index.parquet", guide_rows, GUIDE_INDEX)
    record(workspace.clips, "shard", "clips-digest")
    record(workspace.guide("text-blip2"), "guide", "guide-digest", clips="clips-digest")
    return workspace


def write_sidecar(
    workspace: Workspace, name: str, *, maps: int = 0, captions: int = 0, without: int | None = None
) -> None:
    """A guide of so many random maps (four of them a flow) or captions with embeddings, next to the clips."""
    rng, folder, rows = np.random.default_rng(7), workspace.guide(name), []
    clips = read_table(workspace.clips / "index.parquet", CLIP_INDEX).to_pylist()
    for shard in sorted({clip["shard"] for clip in clips}):
        samples, entries = [], {}
        for number, clip in enumerate(clips):
            if clip["shard"] != shard:
                continue
            key, frames = clip["key"], clip["frames"]
            meta: dict[str, Any] = {"video_id": clip["video_id"], "frames": frames, "frame_stride": STRIDE}
            sample: dict[str, Any] = {"__key__": key}
            entries[key] = 0 if number == without else maps or captions
            if number == without:
                meta["missing"] = "not wanted"
            elif maps:
                scores = 4 * rng.normal(size=(maps, -(-frames // STRIDE), HEIGHT // 8, WIDTH // 8))
                stored, meta["scale"], meta["offset"] = quantize(scores.astype(np.float32))
                sample["scores.npy"] = npy_bytes(stored)
            else:
                meta["captions"] = [f"{clip['video_id']}, text {number}" for number in range(captions)]
                sample["text.npy"] = npy_bytes(rng.normal(size=(captions, TEXT)).astype(np.float16))
            samples.append({**sample, "json": meta_bytes(GuideMeta(**meta))})
        spans = write_tar(folder / shard_name(shard), samples)
        rows += [{"key": key, "shard": shard, "offset": spans[key][0], "length": spans[key][1], "maps": count}
                 for key, count in entries.items()]  # fmt: skip
    write_table(folder / "index.parquet", rows, GUIDE_INDEX)
    record(folder, "guide", f"{name}-digest", clips="clips-digest")


@pytest.fixture(scope="session")
def shared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("workspace") / "tiny").root


@pytest.fixture
def workspace(shared_workspace: Path, tmp_path: Path) -> Workspace:
    """A copy that a test may spoil: 14 videos in shards of 4, of which 13 have score maps."""
    return Workspace(Path(shutil.copytree(shared_workspace, tmp_path / "work")))


@pytest.fixture
def small(workspace: Workspace) -> Callable[..., Experiment]:
    """small(mask={"kind": "tube"}): an experiment of seconds, with some fields changed."""

    def make(**changes: Any) -> Experiment:
        values: dict[str, Any] = json.loads(json.dumps(SMALL))
        for name, change in changes.items():
            values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
        return Experiment.model_validate({"workspace": str(workspace.root), **values})

    return make
