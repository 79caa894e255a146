"""A fixed small world through every stage, and what it left: fingerprints, digests, losses, metrics.

`make golden` compares them with expected.json, `make golden-update` writes that file. Only what stays through any
refactoring is called here: the config's keys, `tgmae.run` and the trainer's commands.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.world.write import write_world
from schemas.config import Experiment
from schemas.stage import read_record
from schemas.tables import CAPTIONS, read_table
from schemas.toml import load_experiment
from schemas.workspace import Workspace
from tgmae.run import DATA, run
from train.__main__ import COMMANDS
from train.export import export_hf

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = Path(__file__).with_name("expected.json")
TOOLS = ("torch", "av", "pyarrow", "webdataset", "open_clip_torch", "transformers", "opencv-python-headless", "numpy")

SMALL = [
    "shard.max_videos=8", "caption.videos_per_shard=8", "ray.workers=2", "mask.text_share=[1, 1]", "clip.repeats=1",
    "optim.epochs=1", "optim.warmup_epochs=0", "optim.batch_size=4", "pretrain.workers=0", "pretrain.log_every=1",
    "probe.batch_size=8", "retrieve.batch_size=8", "finetune.epochs=1", "finetune.warmup_epochs=0",
    "finetune.batch_size=4", "finetune.temporal_views=2", "finetune.spatial_views=1",
    'caption.llm.file="configs/world/descriptions.json"',
]  # fmt: skip

DATASETS = {  # what is made before any training: name -> overrides
    "text": ["captions=blip2"],
    "oracle": ["captions=oracle", "caption.clean.enabled=true"],
    "mix": ["captions=blip2+llm"],
    "dense": ["captions=blip2.dense", "text.method=dense", "text.cache=false"],
    "motion-vectors": ["guide=motion-vectors"],
    "optical-flow": ["guide=optical-flow", "mask.kind=optical-flow"],
    "flow-magnitude": ["guide=flow-magnitude"],
}

NO_RAY = ["ray.address=none"]  # the same bytes without waiting for workers to start
ON_RAY = "guide"  # the stage that two workers of "text" share, each with its model
PLAIN = ["objective.contrastive=0"]
TRAININGS = {  # run -> overrides
    "top-k": PLAIN,
    "top-k-contrastive": [],
    "contrastive-alone": ["objective.reconstruction=0"],
    "tube-contrastive": ["mask.kind=tube", "guide=none"],
    "bottom-k": [*PLAIN, "mask.kind=bottom-k"],
    "tube": [*PLAIN, "mask.kind=tube", "guide=none"],
    "random": [*PLAIN, "mask.kind=random", "guide=none"],
    "motion-vectors": [*PLAIN, "mask.kind=motion-vectors", "guide=motion-vectors"],
    "motion-box": [*PLAIN, "mask.kind=motion-box", "guide=motion-vectors"],
    "optical-flow": [*PLAIN, "mask.kind=optical-flow", "guide=optical-flow"],
    "flow-magnitude": [*PLAIN, "guide=flow-magnitude"],
    "half-text": [*PLAIN, "mask.text_share=[0.5, 0.5]"],
    "dual": [*PLAIN, "mask.decoder_ratio=0.5"],
    "repeats": [*PLAIN, "clip.repeats=2", "clip.flip=true"],
    "pixels": [*PLAIN, "objective.norm_pixels=false", "optim.clip_grad=1.0"],
    "divided": [*PLAIN, "model.attention=divided"],
    "arvideo": [*PLAIN, "objective.kind=arvideo", "guide=none", "mask.kind=tube", "arvideo.cluster=[2, 2, 2]",
                "arvideo.decoder_dim=64", "arvideo.decoder_heads=2"],
    "accumulated": [*PLAIN, "optim.accumulate=2", "mask.ratio=0.75"],
}  # fmt: skip
JUDGED = "top-k-contrastive"  # the run that is fine-tuned, probed, searched and exported


def experiment(folder: Path, *overrides: str) -> Experiment:
    models = ROOT / "pipeline" / "world" / "models"
    paths = {"workspace": folder / "workspace", "index.data": folder / "world",
             "text.model": f"local-dir:{models / 'clip'}", "caption.blip2.model": models / "blip2"}  # fmt: skip
    given = [f"{key}={json.dumps(str(value))}" for key, value in paths.items()]
    return load_experiment(ROOT / "configs" / "demo.toml", [*given, *SMALL, *overrides])


def trail(folder: Path) -> dict[str, Any]:
    """Runs everything in `folder`; stages by folder, and of each training its losses."""
    write_world(folder / "world", videos=18, test_share=1 / 3, size=64, workers=1)
    left: dict[str, Any] = {"world": tree_digest(folder / "world")}
    trainings = {name: experiment(folder, f"name={name}", *overrides) for name, overrides in TRAININGS.items()}
    run(experiment(folder, *DATASETS["text"], *NO_RAY), print, only=[name for name in DATA if name != ON_RAY])
    run(experiment(folder, *DATASETS["text"]), print, only=[ON_RAY])
    for overrides in DATASETS.values():
        run(experiment(folder, *overrides, *NO_RAY), print, only=DATA)
    # The embeddings of the captions alone.
    run(experiment(folder, "name=tube-contrastive", *TRAININGS["tube-contrastive"], *NO_RAY), print, only=DATA)
    for chosen in trainings.values():
        COMMANDS["pretrain"](chosen, False)
    evaluated = experiment(folder, f"name={JUDGED}")
    for command in ("finetune", "probe", "retrieve"):
        COMMANDS[command](evaluated, False)
    workspace = Workspace(Path(evaluated.workspace))
    export_hf(workspace.run(JUDGED), folder / "exported")
    left["exported"] = tree_digest(folder / "exported")
    for record_file in sorted(workspace.root.rglob("stage.json")):
        name = record_file.parent.relative_to(workspace.root).as_posix()
        record = read_record(record_file.parent)
        assert record is not None
        left[name] = {"counts": record.counts, **numbers(record_file.parent)}
        if record.stage != "index":  # its fingerprint holds the times of the files
            left[name]["fingerprint"] = record.fingerprint
        if record.stage != "retrieve":  # its output holds the date
            left[name]["output"] = record.output
    return left


def numbers(folder: Path) -> dict[str, Any]:
    """What may be compared between machines: texts, losses and metrics."""
    found: dict[str, Any] = {}
    if (folder / "captions.parquet").is_file():
        found["captions"] = read_table(folder / "captions.parquet", CAPTIONS).column("text").to_pylist()
    if (folder / "metrics.jsonl").is_file():
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found["loss"] = [line["loss"] for line in lines]
    if (folder / "result.json").is_file():
        found["metrics"] = json.loads((folder / "result.json").read_bytes())["metrics"]
    return found


def tree_digest(folder: Path) -> str:
    """Of names and contents of all files below, in order."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def machine() -> dict[str, str]:
    """Where digests are promised to be equal: the same processor and the same libraries."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu, "python": platform.python_version(), **{name: version(name) for name in TOOLS}}
