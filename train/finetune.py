"""Fine-tuning an encoder to classify, and the multi-view test of what it learnt.

    python -m train finetune work/demo.toml [--set finetune.epochs=20]
    torchrun --nproc-per-node 8 -m train finetune configs/ssv2.toml

VideoMAE's recipe, in the loop that pretraining uses: a run that is killed resumes, and
ends in the same weights, bit for bit on CPU in float32. The test is that of the last update's
weights, as in VideoMAE; other views or another test split test again without training.

Shape suffixes: B clips of a micro-batch, T frames, H rows, W columns, C channels; K classes, P scores
of all heads, one head after the other.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import StageRecord, StageSpec, current_record, read_record, required_record
from schemas.workspace import Workspace
from train.data.classes import NAMES, Classes, names_in, read_classes
from train.data.finetune_augment import Mixing, rand_augment, smoothed
from train.data.labelled import LabelledBatch, LabelledDataset, labelled_batches
from train.data.sampling import BatchPlan, generator, updates
from train.data.splits import labelled_split, with_test_split
from train.data.videos import Videos, open_videos
from train.data.views import ViewsDataset
from train.engine import resume
from train.engine.device_defaults import compile_mode, compiles, loader_workers, native_precision, settled
from train.engine.distributed import Ranks, launch, process_group, settle_on_cpu, under_torchrun
from train.engine.loop import Loop, Settings, common_facts
from train.engine.record import finish
from train.engine.sharding import whole_state
from train.evaluation import finetune_results
from train.evaluation.predictions import predict
from train.evaluation.results import Checkpoint
from train.models.cubes import normalise
from train.models.objective import model_config
from train.models.videomae import Classifier
from train.models.weight_files import weights_to_evaluate
from train.models.weights import load_into, read_weights
from train.pretrain import MODEL, save_module
from train.specs import finetune_spec, finetune_training_spec, training_part

HEAD = ("head.", "fc_norm.")


def run_finetune(experiment: Experiment, *, rebuild: bool = False) -> StageRecord:
    """Fine-tunes and tests, or resumes the run of this name; returns at once when it is complete.

    Leaves model.safetensors (a Classifier's state), config.toml, metrics.jsonl, tensorboard/, checkpoints/, the
    files of train/evaluation/finetune_results.py and stage.json in runs/<name>/finetune. `rebuild`: see run_pretrain.
    Errors: UserError, as run_pretrain, and for labels, splits or weights that cannot be used.
    """
    experiment = with_test_split(experiment, "finetune")
    spec, training = finetune_spec(experiment), finetune_training_spec(experiment)
    record = current_record(spec)
    if record is not None:
        return record
    if experiment.pretrain.processes > 1 and not under_torchrun():
        launch(experiment, *["--rebuild"] * rebuild, command="finetune")
        return required_record(spec.folder, "tgmae finetune")
    with process_group(experiment.pretrain.device) as ranks, ranks.only_writer(spec.folder):
        native = native_precision(ranks.device.type)
        spec, training = finetune_spec(experiment, native), finetune_training_spec(experiment, native)
        experiment = settled(experiment, training, ranks.device.type)
        settle_on_cpu(loader_workers(experiment, ranks.device.type), ranks.device)
        held = resume.state(training, ranks, training_part, rebuild=rebuild)
        record = current_record(spec)
        if record is not None:  # it was kept aside, whole
            return record
        data = Data(experiment)
        tuner = Tuner(experiment, training, ranks, data)
        ranks.wait()  # all have looked: now one may change things
        if ranks.main:
            resume.prepare(experiment, training, held, (MODEL, *finetune_results.FILES))
        if held.checkpoint is not None:
            tuner.resume(*held.checkpoint)
        tuner.train()
        _finish(tuner, spec, data)
        ranks.wait()
        return required_record(spec.folder, "tgmae finetune")


class Data:
    """The videos of the two splits, and their classes."""

    def __init__(self, experiment: Experiment) -> None:
        options, workspace = experiment.finetune, Workspace(Path(experiment.workspace))
        everything = open_videos(workspace)
        videos, train = labelled_split(
            everything, options.train_split, options.test_split, options.test_share, section="finetune"
        )
        self.classes = read_classes(workspace, everything, options.heads)
        self.train: Videos = videos.where(train)
        self.test: Videos = videos.where(~train)


class ClassLoss(nn.Module):
    """A classifier and its soft-target cross-entropy; of two heads, the mean of theirs."""

    def __init__(self, model: Classifier, classes: Classes, smoothing: float) -> None:
        super().__init__()
        self.model, self.classes, self.smoothing = model, classes, smoothing

    def forward(self, clip_BTHWC: Tensor, class_BK: Tensor) -> dict[str, Tensor]:
        """clip_BTHWC: normalised, float32. class_BK: shares of classes, float32, each row's sum 1."""
        scores = self.classes.split(self.model(clip_BTHWC).float())
        parts = {
            head.name: F.cross_entropy(score, smoothed(head.target(class_BK), self.smoothing))
            for head, score in zip(self.classes.heads, scores, strict=True)
        }
        return {"loss": torch.stack(list(parts.values())).mean(), **parts}


class Tuner(Loop):
    """Fine-tuning's part of the loop: its videos, its batches and its losses."""

    def __init__(self, experiment: Experiment, spec: StageSpec, ranks: Ranks, data: Data) -> None:
        options, self.classes = experiment.finetune, data.classes
        if options.rand_augment:
            rand_augment(options.rand_augment)  # a mistake in it is reported now, not by a loader worker
        torch.manual_seed(options.seed)
        config = dataclasses.replace(model_config(experiment), drop_path=options.drop_path)
        model = Classifier(config, data.classes.outputs, dropout=options.dropout)
        self.start, start_facts = _start(experiment, model, data.classes)
        module = ClassLoss(model, data.classes, options.smoothing).to(ranks.device)
        self.compiled = compiles(experiment, ranks.device.type, updates(len(data.train), options))
        if self.compiled:
            compiled = torch.compile(model.encoder.forward, mode=compile_mode(experiment))
            model.encoder.forward = compiled  # type: ignore[method-assign]
        names = ["loss", *[head.name for head in data.classes.heads if len(data.classes.heads) > 1]]
        super().__init__(experiment, spec, ranks, videos=data.train, module=module, names=names,
                         settings=Settings(options, options, "finetune", layer_decay=options.layer_decay))  # fmt: skip
        self.model = model
        self.mixing = Mixing(options.mixup, options.cutmix, len(data.classes))
        if self.mixing.on and self.plan.clips_per_rank % 2:
            raise UserError(
                f"finetune.batch_size {options.batch_size} leaves {self.plan.clips_per_rank} videos to a process in a "
                "micro-batch: mixup and cutmix mix pairs of videos, so make it even, or set both to 0"
            )
        self.info = common_facts(self) | start_facts | self._facts()
        self.say(*(f"{name}: {text}" for name, text in self.info.items()))

    @property
    def clips_per_step(self) -> int:
        return self.plan.batch_size * self.experiment.finetune.repeats

    def batches(self, plan: BatchPlan) -> Iterator[LabelledBatch]:
        dataset = LabelledDataset(self.videos, self.experiment)
        workers = loader_workers(self.experiment, self.ranks.device.type)
        return labelled_batches(dataset, plan, workers=workers, pin=self.ranks.device.type == "cuda")

    def losses(self, batch: LabelledBatch, micro: int) -> dict[str, Tensor]:
        options = self.experiment.finetune
        mixed_BTHWC, class_BK = self.mixing(
            normalise(batch.clip_BTHWC), batch.label_B, repeats=options.repeats,
            draw=lambda group: generator(options.seed, self.step, micro, "mix", group),  # the same on all ranks
            first=self.ranks.rank * self.plan.clips_per_rank,
        )  # fmt: skip
        parts: dict[str, Tensor] = self.wrapped(mixed_BTHWC, class_BK)
        return parts

    def _facts(self) -> dict[str, str]:
        options, classes = self.experiment.finetune, self.classes
        heads = " and ".join(f"{head.name} of {head.size}" for head in classes.heads)
        return {
            "classes": f"{len(classes)}; heads: {heads}",
            "clips": f"{options.sampling} sampling, {options.repeats} of each decoded video",
            "model": f"{self.experiment.model.size}, {sum(p.numel() for p in self.parameters) / 1e6:.1f} M parameters, "
            f"layer decay {options.layer_decay}, drop path {options.drop_path}",
        }


def _start(experiment: Experiment, model: Classifier, classes: Classes) -> tuple[Checkpoint, dict[str, str]]:
    """Puts the weights to begin with into the model; what they are, for the result and for the log.

    Errors: UserError for weights that are not those of such an encoder.
    """
    if "pretrain" not in experiment.stages and not experiment.model.init:
        text = "untrained, for `stages` has no pretrain and model.init names no weights"
        return Checkpoint(source="untrained", sha256=None), {"encoder": text, "head": "untrained"}
    path = weights_to_evaluate(experiment)
    weights = read_weights(path, model.config)
    load_into(model.encoder, weights)
    facts = {"encoder": f"of {weights.source}, sha256 {weights.sha256[:16]}",
             "head": _load_head(path, weights.state, model, classes)}  # fmt: skip
    facts |= _unlike_pretraining(path, experiment)
    return Checkpoint(source=weights.source, sha256=weights.sha256), facts


def _unlike_pretraining(path: Path, experiment: Experiment) -> dict[str, str]:
    """Which clips a run was pretrained on, where fine-tuning takes others."""
    record = read_record(path) if path.is_dir() else None
    pretrained = {} if record is None else record.config.get("clip", {})
    asked = experiment.clip.model_dump(mode="json", include={"frames", "stride", "size"})
    others = [f"clip.{name} = {value}, pretrained with {pretrained[name]}" for name, value in sorted(asked.items())
              if pretrained.get(name, value) != value]  # fmt: skip
    return {"unlike pretraining": "; ".join(others)} if others else {}


def _load_head(path: Path, state: Mapping[str, Tensor], model: Classifier, classes: Classes) -> str:
    """Takes the head of a classifier of the same classes, by name and number; says what was done."""
    if "head.weight" not in state:
        return "untrained"
    file, own = path / MODEL if path.is_dir() else path, list(classes.names)
    names = names_in(file) if file.suffix == ".safetensors" else None
    if names != own or len(state["head.weight"]) != classes.outputs:
        found = "unnamed" if names is None else f"{len(names)} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
        return f"untrained, for {path} is a classifier of other classes: {found}, here are {len(own)}"
    model.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith(HEAD)}, strict=False)
    return f"of {path}, which has the same classes"


def _finish(tuner: Tuner, spec: StageSpec, data: Data) -> None:
    """Keeps the model, tests it, and writes the results, once all updates are done."""
    experiment, folder, ranks = tuner.experiment, spec.folder, tuner.ranks
    begun = time.perf_counter()
    model = Classifier(tuner.model.config, data.classes.outputs)  # whole, where training may have sharded it
    model.load_state_dict(whole_state(tuner.model))
    if ranks.main:
        save_module(folder / MODEL, model, {NAMES: json.dumps(data.classes.names)})
    predictions = predict(model.to(ranks.device), data.classes, ViewsDataset(data.test, experiment), ranks)
    if not ranks.main:
        return
    seconds = tuner.seconds + time.perf_counter() - begun
    train_K = np.bincount(data.train.column("label"), minlength=len(data.classes))
    result = finetune_results.write(
        folder, experiment, data.classes, data.test, train_K, predictions, checkpoint=tuner.start, seconds=seconds
    )
    for warning in result.warnings:
        tuner.say(warning)
    tuner.say(", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items()))
    info = {**tuner.info, "metrics": result.metrics, "warnings": result.warnings}
    counts = result.counts | {"steps": tuner.plan.total}
    files = (MODEL, *finetune_results.FILES, resume.CONFIG)
    finish(spec, folder / MODEL, files=files, counts=counts, info=info, seconds=seconds)
