"""bench/train_step.py: an update, ours and the peers', on a CPU."""

from __future__ import annotations

from pathlib import Path

from benchmark_sections._measured import NOT_YET, measured

from tgmae.tables.result_tables import markdown

NAMES = {
    "ours, tube": "ours, tube mask",
    "ours, text": "ours, text mask",
    "ours, CLIP inside": "ours, the CLIP model inside the step",
    "transformers": "transformers' VideoMAE",
    "original": "the original code",
}


def page(results: Path) -> str:
    found, memory = measured(results, "train_step"), measured(results, "train_step_memory")
    head = """## The step

    python bench/train_step.py --videomae CHECKOUT [--memory]    # bench/results/train_step.json, train_step_memory.json
"""
    if found is None:
        return f"{head}\n{NOT_YET}.\n"
    peak = {} if memory is None else memory["peak_memory_gb"]
    rows = [[NAMES[name], f"{time:.2f}".replace("1.00", "1") if name == "ours, tube" else f"{time:.2f}",
             f"{peak[name]:.2f} GB" if name in peak else NOT_YET]
            for name, time in found["time_of_ours"].items()]  # fmt: skip
    return f"""{head}
Forward, loss, backward and AdamW on the same clips and masks, {found["step"]}, on a CPU ({found["machine"]}, torch
{found["torch"]}); time relative to ours in the same round, median of {found["rounds"]} rounds (memory from a second
run):

{markdown(["step", "time", "peak memory"], rows)}

The targets, 1.3 times as fast as transformers and twice as the original, are for a GPU, in bfloat16, compiled: below.

The embedded CLIP model, a few MB, stands for CLIP here, 8 of 16 frames scored; ViT-B/32 would take about 10 s a frame
on this machine, so on a CPU this row says only that the step with a model inside runs. What masks cost:
[masks](masks.md).
"""
