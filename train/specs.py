"""What pretraining, fine-tuning, probe and retrieval would make of an experiment: compared with what they made.

Light to import: no torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from schemas.atomic import sha256_file
from schemas.config import SPEAKING, Experiment, Frozen
from schemas.errors import UserError
from schemas.stage import StageRecord, StageSpec, present, read_record, required_record
from schemas.workspace import Workspace
from train.data.splits import with_test_split
from train.data.videos import guide_command
from train.engine.run_folder import Part, look
from train.models.weight_files import HEAD, weights_digest, weights_to_evaluate

# On what is learned.
NO_EFFECT = {"processes", "workers", "decoder", "device", "log_every", "pictures_every", "save_every", "keep",
             "compile", "fsdp", "wandb"}  # fmt: skip


def pretrain_spec(experiment: Experiment, native: str = "bfloat16") -> StageSpec:
    """native: what precision = "auto" means for a run that was not begun yet."""
    workspace = Workspace(Path(experiment.workspace))
    inputs = {"clips": required_record(workspace.clips, f"tgmae shard {workspace.root}").output}
    for role, name in (("guide", experiment.guide_name), ("text", experiment.text_name)):
        if name is not None:
            inputs[role] = required_record(workspace.guide(name), guide_command(workspace, name)).output
    # What says which tokens are seen and which predicted: the other kind's section is not read.
    tokens = "arvideo" if experiment.objective.kind == "arvideo" else "mask"
    sections = {
        name: getattr(experiment, name).model_dump(mode="json", exclude={"any_guide"})
        for name in ("clip", tokens, "objective", "optim")
    }
    sections["model"] = experiment.model.model_dump(mode="json", exclude={"init"})  # its content is an input
    if experiment.model.init:
        inputs["init"] = weights_digest(Path(experiment.model.init))
    sections["pretrain"] = experiment.pretrain.model_dump(mode="json", exclude=NO_EFFECT)
    spec = StageSpec(
        stage="pretrain",
        folder=workspace.run(experiment.name),
        config={**sections, "guide": experiment.guide_name, "text": experiment.text_name},
        inputs=inputs,
    )
    return _with_precision(spec, native)


def _with_precision(spec: StageSpec, native: str, part: Part | None = None) -> StageSpec:
    """The spec with a precision in place of "auto": that of the run there is, else `native`.

    So a run that goes on on another device stays the run it is, and its record names what it was computed in.
    """
    if spec.config["pretrain"]["precision"] != "auto":
        return spec
    others = [each for each in ("bfloat16", "float32") if each != native]
    specs = [replace(spec, config={**spec.config, "pretrain": {**spec.config["pretrain"], "precision": each}})
             for each in (native, *others)]  # fmt: skip
    return next((each for each in specs if _is_there(each, part)), specs[0])


def _is_there(spec: StageSpec, part: Part | None) -> bool:
    held = look(spec) if part is None else look(spec, part)
    return held.back is not None or (held.before is not None and held.before.fingerprint == spec.fingerprint)


TESTING = {"test_split", "temporal_views", "spatial_views", "missing"}  # keys of finetune that train nothing
SEEN = {"frames", "stride", "size", "flip"}  # keys of clip that fine-tuning looks at


def finetune_spec(experiment: Experiment, native: str = "bfloat16") -> StageSpec:
    """All of it; its config's part "testing" can change without training again."""
    training = finetune_training_spec(experiment, native)
    testing = with_test_split(experiment, "finetune").finetune.model_dump(mode="json", include=TESTING)
    return replace(training, config={**training.config, "testing": testing})


def finetune_training_spec(experiment: Experiment, native: str = "bfloat16") -> StageSpec:
    """What determines the fine-tuned weights: the checkpoints belong to this. native: see pretrain_spec."""
    workspace = Workspace(Path(experiment.workspace))
    run, classes = workspace.run(experiment.name), present(workspace.manifest) / "classes.json"
    inputs = {"clips": required_record(workspace.clips, f"tgmae shard {workspace.root}").output}
    if classes.is_file():
        inputs["classes"] = sha256_file(classes)
    if "pretrain" in experiment.stages:
        inputs["pretrain"] = required_record(weights_to_evaluate(experiment), f"tgmae pretrain {workspace.root}").output
    elif experiment.model.init:
        inputs["init"] = weights_digest(weights_to_evaluate(experiment))
    config: dict[str, Any] = {
        "clip": experiment.clip.model_dump(mode="json", include=SEEN),
        "model": experiment.model.model_dump(mode="json", exclude={"init", "decoder_depth", "checkpoint_activations"}),
        "finetune": experiment.finetune.model_dump(mode="json", exclude=NO_EFFECT | TESTING),
        "pretrain": experiment.pretrain.model_dump(mode="json", include={"precision", "shuffle_shards"}),
    }
    if experiment.finetune.mixup or experiment.finetune.cutmix:
        config["mixing"] = "a draw for 8 videos"  # tgmae 0.1 drew once for the whole micro-batch
    spec = StageSpec(stage="finetune", folder=run / "finetune", config=config, inputs=inputs)
    return _with_precision(spec, native, training_part)


def _untested(config: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in config.items() if name != "testing"}


def training_part_of(spec: StageSpec) -> StageSpec:
    """A finetune_spec as a finetune_training_spec."""
    return replace(spec, config=_untested(spec.config))


def training_part(record: StageRecord) -> StageRecord:
    """A record of finetune_spec as one of finetune_training_spec."""
    config = _untested(record.config)
    spec = StageSpec(stage=record.stage, folder=Path(), config=config, inputs=record.inputs)
    return record.model_copy(update={"config": config, "fingerprint": spec.fingerprint})


FASTER = {"batch_size", "chunk"}  # keys of probe and retrieve that change no number


def probe_spec(experiment: Experiment) -> StageSpec:
    spec = _frozen_spec(experiment, "probe", with_test_split(experiment, "probe").probe)
    if experiment.retrieve.group and len(experiment.probe.linear.base_lr) > 1:
        return replace(spec, config={**spec.config, "group": experiment.retrieve.group})
    return spec


def retrieve_spec(experiment: Experiment) -> StageSpec:
    """With captions, its inputs are also the head and the text, and its config names the sidecar that holds those."""
    spec = _frozen_spec(experiment, "retrieve", with_test_split(experiment, "retrieve").retrieve)
    name = captions_to_retrieve(experiment)
    if name is None:
        return spec
    workspace = Workspace(Path(experiment.workspace))
    text = required_record(workspace.guide(name), guide_command(workspace, name)).output
    head = sha256_file(weights_to_evaluate(experiment) / HEAD)
    return replace(spec, config={**spec.config, "text": name}, inputs={**spec.inputs, "text": text, "head": head})


def captions_to_retrieve(experiment: Experiment) -> str | None:
    """The sidecar with the captions to retrieve, and to be retrieved by; None: retrieval is by videos alone.

    Errors: UserError when retrieve.text = "always" and the encoder has no contrastive head.
    """
    options, workspace = experiment.retrieve, Workspace(Path(experiment.workspace))
    if options.text == "never":
        return None
    source = weights_to_evaluate(experiment)
    name = experiment.text_name or (experiment.guide_name if experiment.guide in SPEAKING else None)
    name = name or f"embeddings-{experiment.captions}"
    if options.text == "auto":
        there = (source / HEAD).is_file() and read_record(workspace.guide(name)) is not None
        return name if there and options.layer == "norm" else None
    if not (source / HEAD).is_file():
        raise UserError(
            f"retrieve.text = 'always', but {source} has no {HEAD}: only a run that was pretrained here with "
            "objective.contrastive has a head that meets the captions; judge such a run, or set retrieve.text = 'auto'"
        )
    if options.layer != "norm":
        raise UserError("retrieve.text = 'always' needs retrieve.layer = 'norm': the head was trained on those tokens")
    return name


def _frozen_spec(experiment: Experiment, stage: Literal["probe", "retrieve"], options: Frozen) -> StageSpec:
    workspace = Workspace(Path(experiment.workspace))
    run = workspace.run(experiment.name)
    config: dict[str, Any] = {stage: options.model_dump(mode="json", exclude=FASTER)}
    inputs = {"clips": required_record(workspace.clips, f"tgmae shard {workspace.root}").output}
    source = weights_to_evaluate(experiment)
    if source == run:
        inputs["pretrain"] = required_record(run, f"tgmae pretrain {workspace.root}").output
    else:
        inputs["init"] = weights_digest(source)
        config["clip"] = experiment.clip.model_dump(mode="json", include={"frames", "stride", "size"})
        config["model"] = experiment.model.model_dump(mode="json", exclude={"init", "checkpoint_activations"})
    return StageSpec(stage=stage, folder=run / stage, config=config, inputs=inputs)
