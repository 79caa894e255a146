"""`tgmae demo`: every stage on the embedded world (or on your own videos), measured and shown on one page."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from schemas.config import Experiment
from schemas.toml import load_experiment
from schemas.workspace import Workspace
from tgmae.run import run
from tgmae.shipped_files import CONFIGS, WORLD_MODELS

VIDEOS = 1200  # of the world; a fifth of them to test on
TEST_SHARE = 0.2
SIZE = 64  # pixels


def demo(out: Path, data: Path | None = None, overrides: list[str] | None = None, seed: int = 0) -> dict[str, Any]:
    """Runs all stages under `out`, writes `out`/report.html, prints the results as one line of JSON at the end.

    seed: of the world's videos and of pretraining. With `data`, a folder of one's own class folders, the embedded
    world is not drawn and its masks are not known; model names then come by `overrides`, such as
    text.model=ViT-B-32-quickgelu.
    """
    started = time.perf_counter()
    experiment = demo_experiment(out, data, [f"pretrain.seed={seed}", *(overrides or [])])
    if data is None:
        from pipeline.world.write import write_world

        write_world(out / "world", videos=VIDEOS, test_share=TEST_SHARE, size=SIZE, seed=seed)
    run(experiment)
    results = measure(out, experiment, known=data is None)
    from tgmae.demo.caption_sources import table
    from tgmae.inspector.reports.workspace_report import report_workspace

    sources = {}
    if data is None and experiment.guide == "text":
        from tgmae.demo.caption_sources import compare_sources

        sources = compare_sources(experiment, out / "world" / "truth")
    results["sources"] = sources
    report = out / "report.html"
    results |= {"seconds": round(time.perf_counter() - started, 1), "report": str(report)}
    report_workspace(Workspace(Path(experiment.workspace)), report, run=experiment.name, measured=results,
                     tables=[table(sources)] if sources else [])  # fmt: skip
    print(f"report: {report.resolve()}")
    print(f"look at the videos, maps and masks: tgmae inspect {experiment.workspace}")
    print("demo: " + json.dumps({name: results[name] for name in LAST_LINE}))
    return results


LAST_LINE = (
    "mask_iou", "mask_iou_random", "probe", "probe_untrained", "knn", "knn_untrained", "chance", "reconstruction",
    "reconstruction_zero", "text_to_video", "text_to_video_chance", "seconds", "report",
)  # fmt: skip


def demo_experiment(out: Path, data: Path | None, overrides: list[str]) -> Experiment:
    """configs/demo.toml with this machine's paths filled in."""
    paths = {
        "workspace": out / "workspace",
        "index.data": data or out / "world",
        "text.model": f"local-dir:{WORLD_MODELS / 'clip'}",
        "caption.blip2.model": WORLD_MODELS / "blip2",
    }
    return load_experiment(
        CONFIGS / "demo.toml", [*(f"{key}={json.dumps(str(value))}" for key, value in paths.items()), *overrides]
    )


def measure(out: Path, experiment: Experiment, *, known: bool) -> dict[str, Any]:
    """What was learned of what is seen, how well held-out videos are reconstructed, and for the world (`known` masks)
    how well text masks find the named object and what was learned of its motion."""
    from tgmae.demo.held_out_loss import held_out_reconstruction

    run_folder = Workspace(Path(experiment.workspace)).run(experiment.name)
    probe = json.loads((run_folder / "probe" / "probe.json").read_bytes())
    results: dict[str, Any] = dict.fromkeys(LAST_LINE)
    results |= {name: probe.get(key) for name, key in {
        "probe": "top1", "probe_untrained": "top1_untrained", "knn": "top1_knn", "knn_untrained": "top1_knn_untrained",
        "chance": "chance"}.items()}  # fmt: skip
    results |= held_out_reconstruction(experiment)
    retrieved = run_folder / "retrieve" / "result.json"
    if retrieved.is_file():
        found = json.loads(retrieved.read_bytes())
        results |= {"text_to_video": found["metrics"].get("text_to_video_r@5"),
                    "text_to_video_chance": found["metrics"].get("text_to_video_r@5_chance")}  # fmt: skip
    if known:
        from tgmae.demo.truth_labels import probe_axis

        results |= probe_axis(experiment, out / "world" / "truth")
    if known and experiment.guide == "text":
        from tgmae.demo.mask_accuracy import compare_masks

        results |= compare_masks(experiment, out / "world" / "truth")
    return results
