"""bench/cut_videos.py: damaged files that are stored without a word."""

from __future__ import annotations

from pathlib import Path

from benchmark_sections._measured import NOT_YET, measured, percent


def page(results: Path) -> str:
    found = measured(results, "cut_videos")
    head = """## Cut videos

    python bench/cut_videos.py CLIPS     # bench/results/cut_videos.json
"""
    if found is None:
        return f"{head}\n{NOT_YET}.\n"
    alarms = found["alarms on healthy files"]
    return f"""{head}
Mutants of healthy clips, in fifteen combinations of format and codec: cut, zeroed, overwritten, shortened in the
middle, bits flipped. Counted is what is stored with under 90 % of the healthy frames and no failure:
{found["silent"]} of {found["mutants"]:,} ({percent(found["silent share"])}). Alarms on the
{found["healthy files"]} files as they were: {", ".join(f"`{name}`" for name in alarms) or "none"}.
"""
