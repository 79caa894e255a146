"""What docs/score_maps.md says in full, and bench/long_video.py: memory of the workers."""

from __future__ import annotations

from pathlib import Path

from benchmark_sections._measured import NOT_YET, measured


def page(results: Path) -> str:
    found = measured(results, "long_video")
    memory = NOT_YET
    if found is not None:
        memory = (
            f"{found['seconds_of_video'] / 60:.0f} minutes of 1080p, {found['frames'] * 1920 * 1080 * 3 / 1e9:.0f} GB "
            f"if held whole, peak at\n{found['shard_mb'] / 1000:.2f} GB in the shard stage and at "
            f"{found['guide_mb'] / 1000:.1f} GB while every fourth frame is scored by the embedded encoder"
        )
    return f"""## Score maps
[score_maps.md](score_maps.md): masks from stored maps against online ones (`bench/mask_fidelity.py`), the ways to
score and the feature cache (`bench/text_guide.py`), costs (`bench/score_cost.py`). Memory of the workers on a
long video (`bench/long_video.py`, `bench/results/long_video.json`): {memory}.
"""
