"""bench/stream.py: clips from shards."""

from __future__ import annotations

from pathlib import Path

from benchmark_sections._measured import NOT_YET, measured, percent

from tgmae.tables.result_tables import markdown

ROWS = {  # of clips_per_second_and_core
    "original": ("as the original VideoMAE does: decord on the source files, PIL, floats in the loader", ""),
    "webdataset of sources": ("the same, source files in a tar read by webdataset", ""),
    "tgmae, top-k": (
        "**tgmae, `top-k`** (score maps read and followed through the crop)",
        "{top_k_over_original} times the original, paired by round",
    ),
    "tgmae, tube": ("tgmae, `tube`", ""),
    "tgmae, 2 repeats": ("with `clip.repeats = 2`", "two augmented clips of a decoded window"),
    "tgmae, 4 repeats": ("with `clip.repeats = 4`", ""),
    "tgmae, top-k, decord": ("but decoded by decord, to the same pixels", "PyAV is {pyav_over_decord} times as fast"),
    "but all frames of the window decoded": (
        "but every frame of the window decoded",
        "what fetching only the frames that are needed is worth",
    ),
    "but resized before cropped": ("but the whole frame resized, then cropped", ""),
    "but floats, normalised in the loader": (
        "but floats, normalised in the loader",
        "bytes are a quarter of the transfer, too",
    ),
    "decoding alone": ("decoding alone", "decoding is what is left"),
}
STORED = {  # another way to store -> its key in the config
    "long groups of pictures": "`shard.gop = 250`",
    "groups of 4": "`shard.gop = 4`",
    "short side 224": "`shard.short_side = 224`",
    "every 2nd frame": "`shard.frame_step = 2`, `clip.stride = 2`",
    "every 4th frame": "`shard.frame_step = 4`, `clip.stride = 1`",
    "fastdecode": '`shard.tune = "fastdecode"`',
    "B-frames": "`shard.bframes = 3`",
    "B-frames, fastdecode": '`shard.bframes = 3`, `shard.tune = "fastdecode"`',
    "every 2nd frame, fastdecode": '`shard.frame_step = 2`, `clip.stride = 2`, `shard.tune = "fastdecode"`',
}  # fmt: skip


def page(results: Path) -> str:
    found = measured(results, "stream")
    head = """## The stream: clips from shards

    python bench/stream.py --data FOLDER      # bench/results/stream.json
"""
    if found is None:
        return f"{head}\n{NOT_YET}.\n"
    rates, loader, memory = found["clips_per_second_and_core"], found["loader"], found["memory_by_videos"]
    rows = [[title, rate(rates[name]), note.format_map(found)] for name, (title, note) in ROWS.items() if name in rates]
    ours = found["stored"]["as it is"]
    stored = [["as it is", rate(rates["tgmae, tube"]), "1", "1", f"{ours['psnr_db']} dB"]]
    for name, title in STORED.items():
        if name not in found["over_tube"]:
            continue
        each = found["stored"][name]
        stored.append([title, rate(rates[f"tube, {name}"]), f"{found['over_tube'][name]:.2f}",
                       f"{each['megabytes'] / ours['megabytes']:.2f}", f"{each['psnr_db']} dB"])  # fmt: skip
    few, *_, many = memory.items()
    two, one = loader["2 workers"], loader["1 workers"]
    return f"""{head}
Clips of {found["clip"]}, from {found["sources"]}; shards: {found["shards"]}. Clips a second of processor time, so that
other work on the machine counts little: medians of {found["rounds"]} rounds. Machine: {found["cores"]} cores, x86_64.

{markdown(["reading", "clips/s and core", ""], rows)}

What would load faster is to be asked for, for it changes the stored pictures (tube masks; times as fast in the same
round; PSNR against the source, mean over videos):

{markdown(["stored with", "clips/s and core", "times as fast", "of the size", "PSNR"], stored)}

`shard.tune = "fastdecode"` leaves out x264's arithmetic coding and deblocking. `shard.bframes` puts frames in between
that no other leans on, so those that a clip skips are not decoded; the codec's motion vectors are then no speeds.
`shard.frame_step` stores nothing that is not shown, but clips begin at every 2nd or 4th frame only. Decoding only
inside the crop is not possible in H.264. By default the target of 60 clips/s and core is missed: decoding takes
{percent(1 - (1 / rates["tgmae, top-k"] - 1 / rates["decoding alone"]) * rates["tgmae, top-k"], 0)} of a clip's time,
and most frames of each group of 12 are needed. With the options the fastest row gives
{max(rates[f"tube, {name}"] for name in found["over_tube"]):.0f}. {found.get("note", "")}

Two loader processes give {two["clips_per_second"]:.0f} clips/s on the {found["cores"]} cores next to other work, one
{one["clips_per_second"]:.0f}; the first batch comes after {two["seconds_to_first_batch"]:.1f} s (target: under 1 s). A
loader process has {few[1]:.0f} MB of its own for {int(few[0]):,} videos and {many[1]:.0f} MB for {int(many[0]):,}
(target: the same).
"""


def rate(value: float) -> str:
    return f"{value:.1f}"
