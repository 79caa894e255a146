"""bench/workers.py, feeding.py and scale.py: how the stages before training use a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark_sections._measured import NOT_YET, measured, percent

from tgmae.tables.result_tables import markdown


def page(results: Path) -> str:
    return f"""## The stages before training

    python bench/workers.py --data FOLDER    # bench/results/workers.json
    python bench/feeding.py                  # bench/results/feeding.json
    python bench/scale.py                    # bench/results/scale.json

{workers(measured(results, "workers"), measured(results, "workers_quiet"), measured(results, "workers_busy"))}
{feeding(measured(results, "feeding"))}
{scale(measured(results, "scale"))}"""


def workers(found: Any, quiet: Any, busy: Any) -> str:
    head = "### All workers busy, in one tar\n"
    if found is None:
        return f"{head}\n{NOT_YET}.\n"
    names = {"sleeping": "a worker that sleeps"}
    rows = [
        [names.get(name, name), f"{each['videos']}", f"{each['step']}", f"{each['one']['seconds']:.1f} s",
         f"{each['two']['seconds']:.1f} s", f"{each['speedup']:.2f} ({spread(each['speedup_rounds'])})",
         "" if name in names else f"{each['ceiling']:.2f}", percent(each["two"]["busy"]), f"{each['load']:.0f}"]
        for name, each in sorted(found["stages"].items(), key=lambda stage: stage[0] not in names)
    ]  # fmt: skip
    titles = ["", "videos", "of which stay together", "1 worker", "2 workers", "speed-up (target 1.8)",
              "of two that count", "2 workers, busy", "load"]  # fmt: skip
    rest = "The rows"
    if "sleeping" in found["stages"]:
        rest = (
            "The first row needs no core and shows what the machinery gives: Ray, the scheduler, parts on disk and "
            "their joining. The\nothers"
        )
    return f"""{head}
One tar, by one and by two Ray actors in turn, from the first one's start to the joined tar; medians of
{found["rounds"]} rounds. Machine: {found["machine"]}, at nice {found["nice"]} beside other work; load: so many
processes wanted its cores.

{markdown(titles, rows)}

{rest} need two cores that are idle, and here other work takes its share: "of two that count" is how much further two
processes come that do nothing but count, measured in the same rounds, and so what two workers can reach. `busy` is the
share of the two actors' time, between their start and the joined tar, in which they had a part to work on. Caption and
guide decode in threads or processes beside the model, so one actor already uses part of the second core.
{losses(quiet)}{tails(found, busy)}"""


def losses(found: Any) -> str:
    """What keeps two workers from being twice as fast, on a machine that does nothing else."""
    if found is None:
        return ""
    stages = found["stages"]
    rows = [
        [name, f"{each['speedup']:.2f} ({spread(each['speedup_rounds'])})", f"{by_cores(each):.2f}",
         f"{by_groups(each):.2f}", f"{each['one']['busy'] / each['two']['busy']:.3f}",
         f"{each['grows']['busy_seconds']:.2f}", f"{each['grows']['cpu_seconds']:.2f}",
         *(f"{each['plain_grows'][key]:.2f}" for key in ("busy", "cpu")),
         percent(each["two"]["driver_cpu"] / each["two"]["cpu_seconds"])]
        for name, each in stages.items()
    ]  # fmt: skip
    titles = ["", "speed-up (target 1.8)", "cores give", "groups give", "idle: start, joining, tail", "seconds a video",
              "CPU seconds a video", "plain: seconds", "plain: CPU seconds", "CPU of the scheduler"]  # fmt: skip
    caption = stages["caption"]
    loads = [each["load"] for each in stages.values()]
    return f"""
Caption and guide again on a machine that does nothing else, with the kernel's count of CPU seconds
(`bench/workers.py --only caption guide`, bench/results/workers_quiet.json): {found["rounds"]} rounds at nice
{found["nice"]}, load {min(loads):.0f}. From "idle" on, factors of two workers to one; 1.00: nothing is lost. "Plain" is
the same worker in one and in two processes: no Ray, no parts, nothing joined.

{markdown(titles, rows)}

Guide reaches the target. What two cores give is twice a worker's seconds a video by its CPU seconds: one caption worker
alone keeps {caption["one"]["cpu_seconds"] / caption["one"]["busy_seconds"]:.2f} cores busy, because frames are
decoded ahead of the model, so a second one finds less than a whole core. And {caption["videos"]} videos are
{groups(caption)} groups that share batches, of which one worker gets {-(-groups(caption) // 2)}. A second worker costs
no CPU time, and plain processes slow one another down as much: nothing of the miss is Ray's or the scheduler's.
"""


def by_cores(stage: Any) -> float:
    """The speed-up at which two cores are full."""
    return min(2.0, 2 * stage["one"]["busy_seconds"] / stage["two"]["cpu_seconds"])


def groups(stage: Any) -> int:
    return -(-stage["videos"] // stage["step"])


def by_groups(stage: Any) -> float:
    """The speed-up of two workers that share so many groups of videos as evenly as can be."""
    return groups(stage) / -(-groups(stage) // 2)


def tails(before: Any, found: Any) -> str:
    if found is None:
        return ""
    counts, shard = list(next(iter(found["tails"].values()))), found["stages"]["shard"]["one"]
    groups = found["tail_videos"] / found["stages"]["caption"]["step"] / 64
    past, known = before["tails"], found["known"]
    rows = [
        [name, *(f"{percent(each[count])} ({percent(past[name][count])}, {percent(known[name][count])})"
                 for count in counts)]
        for name, each in found["tails"].items()
    ]  # fmt: skip
    return f"""
Idle at the end of {found["tail_videos"]} videos in one tar (target: under 5 %), by the stage's scheduler, simulated
with the seconds of videos recorded in a run beside other work (bench/results/workers_busy.json); in brackets what it
was before the longest of the last videos went first (recorded in the run of the first table, captions drawn one by
one), and what would idle if all seconds were known beforehand:

{markdown(["stage", *(f"{count} workers" for count in counts)], rows)}

How long a video takes is guessed from frames and size (`pipeline/runtime/parts.py`). With 64 workers shard and caption
miss the target. Shard's seconds are mostly the machine's other work here ({shard["busy_seconds"]:.1f} s a video for
{shard["cpu_seconds"]:.1f} s of the processor), which no size tells. Captions are made in groups of videos that share
batches, so that where a shard is cut shows in no caption: groups of {found["stages"]["caption"]["step"]} are
{groups:.1f} for each of 64 workers, so some have one more than others. The start of Ray and of models comes on top.
"""


def feeding(found: Any) -> str:
    head = "### A model is not kept waiting\n"
    if found is None:
        return f"{head}\n{NOT_YET}.\n"
    rows = [
        [f"{row['size']} px", percent(row["waited"]), percent(row["with_one_thread"]["waited"]), percent(row["idle"]),
         f"{row['frames_per_core']:.0f}", f"{row['needed_cores']:.1f}"]
        for row in found["rows"]
    ]  # fmt: skip
    rate, threads = found["model_frames_per_second"], found["threads"]
    titles = ["clips", f"waiting, {threads} threads (target 5 %)", "waiting, 1 thread", "without work in all",
              "scored frames/s that a core decodes", f"cores for {rate:.0f}/s"]  # fmt: skip
    return f"""{head}
The guide stage's worker with a model that sleeps {1000 / rate:.0f} ms a scored frame ({rate:.0f} a second, every
{found["frame_stride"]}th frame of clips of {found["frames"]}), so that the processor is left to decoding; medians of
{found["rounds"]} rounds. {on(found)}

{markdown(titles, rows)}

"Without work in all" counts scores that are packed and written, too, and the first chunk of a part. Where more cores
are needed than there are, waiting is what decoding cannot give, not what threads lose: `cores for {rate:.0f}/s` says
how many a GPU of that rate needs beside it.
"""


def scale(found: Any) -> str:
    head = "### Many videos\n"
    if found is None:
        return f"{head}\n{NOT_YET}.\n"
    names = {"index": "`tgmae index`", "status": "`tgmae status` (target 2 s)",
             "plan": "`tgmae run --plan` (target 2 s)", "open": "opening the training stream"}  # fmt: skip
    rows = [
        [title, *(f"{row[f'{name}_seconds']:.1f} s ({row[f'{name}_cpu_seconds']:.1f}), {row[f'{name}_mb']:.0f} MB"
                  for row in found["rows"])]
        for name, title in names.items()
    ]  # fmt: skip
    per_video = [1000 * row["index_seconds"] / row["videos"] for row in found["rows"]]
    return f"""{head}
Hard links to eight small videos in 400 folders, each command a process of its own: seconds of the clock (of the
processor), and the memory of the largest process; medians of {found["rounds"]} rounds, but for the index.
{on(found)}

{markdown(["", *(f"{row['videos']:,.0f} videos" for row in found["rows"])], rows)}

Indexing takes {" and ".join(f"{each:.1f}" for each in per_video)} ms a video. A plan looks at name, size and time of
every file, for an overwritten file changes no folder's time; it does so once.
"""


def on(found: Any) -> str:
    return f"Machine: {found['machine']}, at nice {found['nice']} beside other work, load {found['load']:.0f}."


def spread(rounds: list[float]) -> str:
    return f"{min(rounds):.2f} to {max(rounds):.2f}"
