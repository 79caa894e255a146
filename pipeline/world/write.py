"""Writes the world to disk as anyone's labelled videos, with the truth next to them.

    out/train/<label>/<name>.mp4        what the pipeline reads: folders are classes
    out/test/<label>/<name>.mp4
    out/truth/world.json                 arguments, and of each video its split, label (its shape), motion, caption, ...
    out/truth/<split>/<label>/<name>.npz the named object's visible mask, packed to bits

`world.json` is the plan, written first; a video is done when its .npz is there. A second call makes what is missing.
"""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from pipeline.world.scene import render, sample_scene
from schemas.errors import UserError
from schemas.progress import Progress
from schemas.signals import end_with_parent

GENERATOR = 3
"""Version of the drawing; a folder of another one is refused, not mixed."""


def write_world(
    out: Path,
    *,
    videos: int = 600,
    seed: int = 0,
    test_share: float = 0.2,
    size: int = 128,
    frames: int = 32,
    fps: int = 12,
    workers: int | None = None,
) -> None:
    """Draws the world into `out`: equal arguments, equal bytes, whatever the number of processes.

    size: px, of width and of height; test_share: share of the videos, the last ones, that goes to out/test;
    workers: processes (by default one a core; 1 draws in this one).
    """
    if not 0 <= test_share < 1:
        raise ValueError(f"test_share is {test_share}; expected at least 0 and less than 1")
    arguments = {"generator": GENERATOR, "videos": videos, "seed": seed, "test_share": test_share,
                 "size": size, "frames": frames, "fps": fps}  # fmt: skip
    plan = _plan(arguments)
    _keep_plan(out / "truth" / "world.json", {"arguments": arguments, "videos": plan})
    missing = [entry for entry in plan if not _truth_path(out, entry).exists()]
    make = partial(_write_video, out, seed=seed, size=size, frames=frames, fps=fps)
    workers = min(workers or os.cpu_count() or 1, len(missing))
    if workers <= 1:
        _report((make(entry) for entry in missing), len(plan), len(missing))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        jobs = [pool.submit(make, entry) for entry in missing]
        _report((job.result() for job in as_completed(jobs)), len(plan), len(missing))


def encode_mp4(file: Path | BinaryIO, frames: np.ndarray, fps: int) -> None:
    """uint8 RGB [T, H, W, 3] -> H.264, to the same bytes each time.

    For that there is one encoder thread, and no macroblock tree, whose vectorised code reads memory that nobody wrote:
    of 60 encodings of one video by x264 core 165, a third came out differently.
    """
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "mbtree=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def decode_mp4(file: Path | BinaryIO) -> np.ndarray:
    """-> uint8 RGB [T, H, W, 3]. The world's own small reader, for training and measuring its models."""
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _plan(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a video: `path` is split/label/name, without the ending. Drawn, not stored, so that both agree."""
    videos, size, frames = arguments["videos"], arguments["size"], arguments["frames"]
    first_test = videos - round(videos * arguments["test_share"])
    plan = []
    for index in range(videos):
        described = sample_scene(arguments["seed"], index, size=size, frames=frames).describe()
        split = "train" if index < first_test else "test"
        plan.append({"index": index, "path": f"{split}/{described['label']}/{index:05d}", "split": split, **described})
    return plan


def _keep_plan(path: Path, plan: dict[str, Any]) -> None:
    text = json.dumps(plan, indent=1) + "\n"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _rename_when_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    elif path.read_text(encoding="utf-8") != text:
        found = json.loads(path.read_text(encoding="utf-8"))["arguments"]
        raise UserError(
            f"{path} is of another world: it was made with {found}, asked for now is {plan['arguments']}. "
            "Choose another folder, or remove this one."
        )


def _truth_path(out: Path, entry: dict[str, Any]) -> Path:
    return out / "truth" / f"{entry['path']}.npz"


def _write_video(out: Path, entry: dict[str, Any], *, seed: int, size: int, frames: int, fps: int) -> None:
    pictures, ids = render(sample_scene(seed, entry["index"], size=size, frames=frames))
    mask = ids == 1
    video, truth = out / f"{entry['path']}.mp4", _truth_path(out, entry)
    for path in (video, truth):
        path.parent.mkdir(parents=True, exist_ok=True)
    _rename_when_whole(video, lambda temporary: encode_mp4(temporary, pictures, fps))
    bits, shape = np.packbits(mask), np.array(mask.shape, np.int64)
    _rename_when_whole(truth, lambda temporary: _save_truth(temporary, bits, shape))


def _save_truth(path: Path, bits: np.ndarray, shape: np.ndarray) -> None:
    with path.open("wb") as file:  # given a name, numpy would add an ending to it
        np.savez_compressed(file, bits=bits, shape=shape)


def _rename_when_whole(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _report(finished: Iterable[None], total: int, missing: int) -> None:
    with Progress("world", total, done=total - missing, hidden=not missing) as progress:
        for _ in finished:
            progress.advance()
