"""What pretraining and the probe would make of an experiment: compared with what they made.

Light to import: no torch.
"""

from __future__ import annotations

from pathlib import Path

from schemas.config import Experiment
from schemas.stage import StageSpec, required_record
from schemas.workspace import Workspace

NO_EFFECT = {"processes", "workers", "device", "log_every", "save_every", "keep", "compile"}  # on what is learned


def pretrain_spec(experiment: Experiment) -> StageSpec:
    workspace = Workspace(Path(experiment.workspace))
    inputs = {"clips": required_record(workspace.clips, f"tgmae shard {workspace.root}").output}
    if experiment.guide_name is not None:
        folder = workspace.guide(experiment.guide_name)
        inputs["guide"] = required_record(folder, f"tgmae guide {workspace.root}").output
    sections = {
        name: getattr(experiment, name).model_dump(mode="json")
        for name in ("clip", "mask", "model", "objective", "optim")
    }
    sections["pretrain"] = experiment.pretrain.model_dump(mode="json", exclude=NO_EFFECT)
    return StageSpec(
        stage="pretrain",
        folder=workspace.run(experiment.name),
        config={**sections, "guide": experiment.guide_name},
        inputs=inputs,
    )


def probe_spec(experiment: Experiment) -> StageSpec:
    workspace = Workspace(Path(experiment.workspace))
    run = workspace.run(experiment.name)
    return StageSpec(
        stage="probe",
        folder=run / "probe",
        config={"probe": experiment.probe.model_dump(mode="json", exclude={"batch_size"})},
        inputs={
            "clips": required_record(workspace.clips, f"tgmae shard {workspace.root}").output,
            "pretrain": required_record(run, f"tgmae pretrain {workspace.root}").output,
        },
    )
