"""bench/gpu_check.py: what only a GPU can show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark_sections._measured import NOT_YET, measured, percent

from tgmae.tables.result_tables import markdown


def page(results: Path) -> str:
    parts = {name: measured(results, f"gpu_{name}") for name in ("step", "mfu", "crops", "blip2", "loader", "suite")}
    card = next((part["about"]["card"] for part in parts.values() if part), None)
    rows = [
        ["GPU tests (`pytest -m gpu`)", "all pass", suite(parts["suite"])],
        ["ours, compiled, beside transformers' VideoMAE", "1.3 times", faster(parts["step"], "transformers")],
        ["ours, compiled, beside the original code", "2 times", faster(parts["step"], "original")],
        ["text masks beside tube masks", "within 1 %", text(parts["step"])],
        *([f"utilisation, {name}", "0.5 for ViT-L at 0.9", utilisation(parts["mfu"], name)]
          for name in ("ViT-B 0.9", "ViT-B 0.75", "ViT-B 0.6", "ViT-L 0.9", "ViT-L 0.75", "ViT-L 0.6")),
        ["crops of CLIP's ViT-B/32", "", crops(parts["crops"])],
        ["frames scored in one dense pass", "", dense(parts["crops"])],
        ["captions of BLIP-2 OPT-2.7b", "", captions(parts["blip2"])],
        *([f"the GPU waits for the loader, ViT-B at 0.9, `clip.repeats = {count}`", "", waiting(parts["loader"], count)]
          for count in (1, 2, 4)),
    ]  # fmt: skip
    return f"""## On one GPU

    make gpu-check-data    # on a machine with the pipeline: clips and wheels to carry
    make gpu-check         # on the machine with the GPU, at most eight minutes: bench/results/gpu_*.json

Card: {card or NOT_YET}. bfloat16, torch.compile, weights drawn; utilisation is of the card's dense bf16 peak.

{markdown(["", "target", "measured"], rows)}
"""


def suite(found: Any) -> str:
    if found is None:
        return NOT_YET
    states = list(found["tests"].values())
    return f"{states.count('passed')} of {len(states)}"


def faster(found: Any, peer: str) -> str:
    times = {} if found is None else found["time_of_ours"]
    if peer not in times or "ours, compiled" not in times:
        return NOT_YET
    return f"{times[peer] / times['ours, compiled']:.2f} times as fast"


def text(found: Any) -> str:
    return NOT_YET if found is None else f"{100 * (found['time_of_ours']['ours, text'] - 1):+.1f} %"


def utilisation(found: Any, name: str) -> str:
    step = None if found is None else found["steps"].get(name)
    return NOT_YET if step is None else f"{step['mfu']}, {step['clips_per_second']:.0f} clips/s"


def crops(found: Any) -> str:
    batches = [] if found is None else [each for name, each in found.items() if name.startswith("batch ")]
    if not batches:
        return NOT_YET
    best = max(batches, key=lambda each: each["crops_per_second"])
    of_peak = "" if best["of_peak"] is None else f", {percent(best['of_peak'])} of peak"
    return (f"{best['crops_per_second']:,} crops/s{of_peak}: "
            f"{best['frames_per_second']:.0f} frames/s of 196 patches")  # fmt: skip


def dense(found: Any) -> str:
    rate = None if found is None else found.get("dense_frames_per_second")
    return NOT_YET if rate is None else f"{rate:.0f} frames/s"


def captions(found: Any) -> str:
    if found is None:
        return NOT_YET
    return f"{max(each['captions_per_second'] for each in found['batches'].values()):.0f} captions/s"


def waiting(found: Any, count: int) -> str:
    rates = None if found is None else found.get(f"repeats {count}")
    if rates is None:
        return NOT_YET
    return (f"{percent(rates['waiting'])} of the time: {rates['clips_per_second']:.0f} of the "
            f"{rates['step_alone_clips_per_second']:.0f} clips/s that the step takes")  # fmt: skip
