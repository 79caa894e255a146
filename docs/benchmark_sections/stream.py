"""bench/stream.py: clips from shards."""

from __future__ import annotations

from pathlib import Path

from benchmark_sections._measured import NOT_YET, measured

from tgmae.tables.result_tables import markdown

ROWS = {  # of clips_per_second_and_core
    "original": ("as the original VideoMAE does: decord on the source files, PIL, floats in the loader", ""),
    "webdataset of sources": ("the same, source files in a tar read by webdataset", ""),
    "tgmae, top-k": ("**tgmae, `top-k`** (score maps read and followed through the crop)",
                     "{top_k_over_original} times the original, paired by round"),
    "tgmae, tube": ("tgmae, `tube`", ""),
    "tgmae, 2 repeats": ("with `clip.repeats = 2`", "two augmented clips of a decoded window"),
    "tgmae, 4 repeats": ("with `clip.repeats = 4`", ""),
    "but long groups of pictures": ("but clips with a key frame every 250 frames", "what short groups are worth"),
    "but all frames of the window decoded": ("but every frame of the window decoded",
                                             "what fetching only the frames that are needed is worth"),
    "but resized before cropped": ("but the whole frame resized, then cropped", ""),
    "but floats, normalised in the loader": ("but floats, normalised in the loader",
                                             "bytes are a quarter of the transfer, too"),
    "decoding alone": ("decoding alone", "decoding is what is left"),
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
    few, *_, many = memory.items()
    two, one = loader["2 workers"], loader["1 workers"]
    return f"""{head}
Clips of {found["clip"]}, from {found["sources"]}, one thread; shards: {found["shards"]}.

{markdown(["reading", "clips/s and core", ""], rows)}

The pictures differ from the source's by {found["psnr_db"]} dB PSNR (mean over videos, at short side 256). Two loader
processes give {two["clips_per_second"]:.0f} clips/s on the {found["cores"]} cores, one {one["clips_per_second"]:.0f};
the first batch comes after {two["seconds_to_first_batch"]:.1f} s. A loader process has {few[1]:.0f} MB of its own for
{int(few[0]):,} videos and {many[1]:.0f} MB for {int(many[0]):,}.
"""


def rate(value: float) -> str:
    return f"{value:.1f}"
