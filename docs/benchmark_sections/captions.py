"""bench/caption.py: a BLIP-2 of the real classes, in a loop and in Ray's actors."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmark_sections._measured import NOT_YET, measured, percent

from tgmae.tables.result_tables import markdown


def page(results: Path) -> str:
    world, real = measured(results, "caption"), measured(results, "caption_real_clips")
    head = """## Captions

    python bench/caption.py                                                     # bench/results/caption.json
    python bench/caption.py --data FOLDER --videos 165 --shard 55 --actors 1    # bench/results/caption_real_clips.json
"""
    if world is None:
        return f"{head}\n{NOT_YET}.\n"
    loop, ray = world["variants"]["loop"], world["variants"]["ray_1"]
    rounds = world["ray_overhead_rounds"]
    shares = ", ".join(f"{100 * each:.1f}" for each in sorted(rounds))
    notes = {"ray_1": f": {percent(statistics.median(rounds))} slower (median of rounds: {shares} %)"}
    names = {"loop": "the worker in a plain loop", "ray_1": "one Ray actor", "ray_2": "two Ray actors, two cores"}
    rows = [row(names[name], each, notes.get(name, "")) for name, each in world["variants"].items()]
    if real is not None:
        slower = f": {percent(real['ray_overhead'])} slower"
        clips = real["data"].split(" videos", 1)[0] + " real clips"
        rows += [row(f"{clips}, plain loop", real["variants"]["loop"], ""),
                 row(f"{clips}, one Ray actor", real["variants"]["ray_1"], slower)]  # fmt: skip
    return f"""{head}
{world["model"]} (the real classes; {1 / loop["captions_per_second"]:.2f} s a caption on a core), three keyframes a
video; {world["data"]}. Rates between results, so without the start of Ray and of the model ({ray["start"]:.0f} s with
Ray, {loop["start"]:.0f} s without):

{markdown(["", "captions/s", "waiting for frames"], rows)}

Of a shard, the first frames are waited for; the model waits for nothing else.
"""


def row(title: str, found: dict[str, float], note: str) -> list[str]:
    return [title, f"{found['captions_per_second']:.2f}{note}", percent(found["waiting_for_frames"])]
