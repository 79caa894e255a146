#!/usr/bin/env python3
"""How many damaged videos are kept as if they were whole: healthy clips, cut, zeroed, overwritten, shortened.

python bench/cut_videos.py CLIPS [--sources 12] [--processes 2] [--out bench/results/cut_videos.json]

CLIPS is a folder of videos that are whole (those that fail as they are, are left out and named). From `--sources` of
them come files of every format, and of every file the mutants below; each goes through the probe of `tgmae index` and
the worker of `tgmae shard`. Silent is a mutant that gives a clip of under 90 % of the healthy frames and no failure.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av

from pipeline.datasets.entry import VIDEOS
from pipeline.media.decoding import iter_frames
from pipeline.media.encoding import Source, reencoded
from pipeline.media.probing import probe
from pipeline.media.video import VideoError
from schemas.config import Shard

SILENT = 0.9  # a mutant kept with fewer of the healthy frames
SIZE, FRAMES, RATE = (160, 120), 72, 24
FORMATS = {  # name: (codec, options, with sound)
    "h264.mkv": ("libx264", {"g": "24", "bf": "2"}, True),
    "vp8.webm": ("libvpx", {"g": "24", "deadline": "realtime"}, False),
    "vp9.webm": ("libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8"}, True),
    "h264.ts": ("libx264", {"g": "24"}, True),
    "mpeg2.ts": ("mpeg2video", {"g": "12", "bf": "2"}, True),
    "mpeg1.mpg": ("mpeg1video", {"g": "12"}, True),
    "mpeg2.vob": ("mpeg2video", {"g": "12"}, False),
    "vp8.ogv": ("libvpx", {"g": "24", "deadline": "realtime"}, False),
    "wmv2.asf": ("wmv2", {"g": "12"}, True),
    "mpeg4.avi": ("mpeg4", {"g": "24"}, True),
    "mpeg4.m4v": ("mpeg4", {"g": "24"}, False),
    "flv.flv": ("flv", {"g": "24"}, True),
    "h264.mov": ("libx264", {"g": "24", "bf": "2"}, True),
    "fast.mp4": ("libx264", {"g": "24", "movflags": "faststart"}, True),
    "fragments.mp4": ("libx264", {"g": "24", "movflags": "frag_keyframe+empty_moov"}, False),
}
SOUND = {".webm": "libopus", ".mpg": "mp2", ".vob": "mp2", ".asf": "mp2"}

Mutate = Callable[[bytes, random.Random], bytes]


def cut(data: bytes, rng: random.Random, low: float, high: float) -> bytes:
    return data[: int(len(data) * rng.uniform(low, high))]


def overwritten(data: bytes, rng: random.Random, share: float, *, zero: bool) -> bytes:
    """A stretch of the file is zeros or noise: a hole of a download, a bad block."""
    size = max(1, int(len(data) * share))
    at = int(len(data) * 0.1) + rng.randrange(max(1, int(len(data) * 0.9) - size))
    return data[:at] + (bytes(size) if zero else rng.randbytes(size)) + data[at + size :]


def removed(data: bytes, rng: random.Random, share: float) -> bytes:
    size = int(len(data) * share)
    at = int(len(data) * 0.1) + rng.randrange(max(1, int(len(data) * 0.9) - size))
    return data[:at] + data[at + size :]


def flipped(data: bytes, rng: random.Random, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


MUTANTS: dict[str, Mutate] = {
    "cut to 10-40 %": partial(cut, low=0.1, high=0.4),
    "cut to 40-70 %": partial(cut, low=0.4, high=0.7),
    "cut to 70-90 %": partial(cut, low=0.7, high=0.9),
    "5 % zeroed": partial(overwritten, share=0.05, zero=True),
    "30 % zeroed": partial(overwritten, share=0.3, zero=True),
    "20 % noise": partial(overwritten, share=0.2, zero=False),
    "end zeroed": lambda data, rng: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "20 % removed": partial(removed, share=0.2),
    "20 bits flipped": partial(flipped, count=20),
}


def write(source: Path, target: Path, codec: str, options: dict[str, str], sound: bool) -> None:
    """The first frames of `source`, small, in the format of the target's name, with a tone where there is sound."""
    pictures = list(islice(iter_frames(source), FRAMES))
    muxing = {"movflags": options["movflags"]} if "movflags" in options else {}
    with av.open(str(target), "w", options=muxing) as output:
        stream = output.add_stream(codec, rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {name: value for name, value in options.items() if name != "movflags"}
        tone = output.add_stream(SOUND.get(target.suffix, "aac"), rate=48000, layout="mono") if sound else None
        fifo = av.AudioFifo()
        for number in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(pictures[number % len(pictures)], format="rgb24")
            frame = picture.reformat(*SIZE, format="yuv420p")
            frame.pts = number
            output.mux(stream.encode(frame))
            if tone is not None:
                for samples in _tone(fifo, number, tone):
                    output.mux(tone.encode(samples))
        output.mux(stream.encode(None))
        if tone is not None:
            output.mux(tone.encode(None))


def _tone(fifo: av.AudioFifo, number: int, tone: Any) -> Iterator[av.AudioFrame]:
    import numpy as np

    length = 48000 // RATE
    wave = np.sin(np.arange(number * length, (number + 1) * length) * 0.05).astype(np.float32)[None]
    planar = tone.codec_context.format.name
    samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
    samples.sample_rate, samples.pts = 48000, number * length
    resampled = av.AudioResampler(planar, "mono", 48000).resample(samples)
    for part in resampled:
        part.pts = None
        fifo.write(part)
    yield from fifo.read_many(tone.codec_context.frame_size or length)


def kept(path: Path) -> tuple[int | None, str]:
    """Frames of the clip that index and shard make of a file; None and the failure where there is one."""
    try:
        facts = probe(path)
    except VideoError as error:
        return None, f"{type(error).__name__}: {error}"
    except Exception as error:
        return None, f"unforeseen {type(error).__name__}: {error}"
    try:
        clip, _ = reencoded(Source(path, None, None, facts.fps, Shard(short_side=32, preset="ultrafast"), 60.0))
    except VideoError as error:
        return None, f"{type(error).__name__}: {error}"
    except Exception as error:
        return None, f"unforeseen {type(error).__name__}: {error}"
    return clip.frames, ""


def tried(path: Path, name: str, mutations: Collection[str]) -> dict[str, Any]:
    """A healthy file and its mutants: frames or failures by mutation."""
    healthy, reason = kept(path)
    found: dict[str, Any] = {"file": name, "healthy": healthy, "failure": reason, "mutants": {}}
    if healthy is None:
        return found
    data = path.read_bytes()
    for mutation in mutations:
        with tempfile.TemporaryDirectory() as folder:
            mutant = Path(folder) / path.name
            mutant.write_bytes(MUTANTS[mutation](data, random.Random(f"{name} {mutation}")))
            found["mutants"][mutation] = kept(mutant)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--sources", type=int, default=12, help="healthy clips that mutants are made of")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where to write the numbers, as JSON")
    parser.add_argument("--silent", action="store_true", help="name every silent mutant")
    arguments = parser.parse_args()
    clips = sorted(path for path in arguments.clips.rglob("*") if path.suffix.lower() in VIDEOS)
    with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(arguments.processes) as pool:
        names = [path.relative_to(arguments.clips).as_posix() for path in clips]
        results = pool.starmap(tried, [(path, name, ()) for path, name in zip(clips, names, strict=True)], chunksize=1)
        whole = [place for place, result in enumerate(results) if result["healthy"]]
        chosen = whole[:: max(1, len(whole) // arguments.sources)][: arguments.sources]
        made, tasks = [], [(clips[place], names[place], tuple(MUTANTS)) for place in chosen]
        for place in chosen:
            for name, how in FORMATS.items():
                target = Path(folder) / str(place) / name
                target.parent.mkdir(exist_ok=True)
                made.append((clips[place], target, *how))
                tasks.append((target, f"{names[place]} as {name}", tuple(MUTANTS)))
        pool.starmap(write, made, chunksize=1)
        results += pool.starmap(tried, tasks, chunksize=1)
    report = summary(results)
    print(json.dumps(report, indent=1))
    if arguments.silent:
        for result in results:
            for mutation, (frames, _) in result["mutants"].items():
                if frames is not None and frames < SILENT * result["healthy"]:
                    print(f"silent: {result['file']}, {mutation}: {frames} of {result['healthy']}", file=sys.stderr)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    mutants = [(result, mutation, *answer) for result in results for mutation, answer in result["mutants"].items()]
    silent = [each for each in mutants if each[2] is not None and each[2] < SILENT * each[0]["healthy"]]
    kind = Counter(each[1] for each in silent)
    form = Counter(Path(each[0]["file"]).suffix for each in silent)
    unforeseen = Counter(each[3] for each in mutants if each[3].startswith("unforeseen"))
    return {
        "healthy files": len({result["file"] for result in results if result["healthy"] is not None}),
        "alarms on healthy files": {r["file"]: r["failure"] for r in results if r["healthy"] is None},
        "mutants": len(mutants),
        "failed with a reason": sum(each[2] is None for each in mutants) - unforeseen.total(),
        "kept with 90 % or more": sum(each[2] is not None for each in mutants) - len(silent),
        "silent": len(silent),
        "silent share": round(len(silent) / max(1, len(mutants)), 4),
        "silent by mutation": dict(kind.most_common()),
        "silent by format": dict(form.most_common()),
        "unforeseen": dict(unforeseen.most_common(5)),
    }


if __name__ == "__main__":
    main()
