"""What probe and retrieve judge: an encoder, frozen, and the features of the videos that it is judged by.

Which encoder that is, train/models/weight_files.py:weights_to_evaluate says for them and for fine-tuning alike.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from schemas.config import Experiment, Frozen
from schemas.errors import UserError
from schemas.stage import StageSpec, required_record
from train.data.splits import Bools, absent_videos
from train.data.videos import Videos
from train.engine.device_defaults import loader_workers
from train.engine.distributed import choose_device
from train.evaluation.results import Checkpoint
from train.evaluation.video_features import Features, ViewDataset, extract, kept_features
from train.models.objective import build_model, model_config
from train.models.videomae import Encoder
from train.models.weight_files import weights_to_evaluate
from train.models.weights import load_encoder


class FrozenEncoder:
    """The encoder of an experiment; loaded when its features are not kept already."""

    def __init__(self, experiment: Experiment, spec: StageSpec, options: Frozen) -> None:
        """Errors: UserError when there are no weights, or they are of a model of another config."""
        self.experiment, self.spec, self.options = experiment, spec, options
        self.source = weights_to_evaluate(experiment)
        if "pretrain" in spec.inputs:
            _check_model(experiment, self.source)
        self.sha256 = spec.inputs.get("pretrain") or spec.inputs["init"]
        self.checkpoint = Checkpoint(source=str(self.source), sha256=self.sha256)
        self.device = choose_device(experiment.pretrain.device)

    @property
    def views(self) -> dict[str, int | str]:
        """How each video is sampled, as result.json keeps it."""
        options = self.options
        return {"sampling": options.sampling, "temporal": options.views, "spatial": options.spatial_views,
                "layer": options.layer}  # fmt: skip

    def features(self, videos: Videos, *, untrained: bool = False) -> Features:
        """Of this encoder, or of the same one untrained; kept in runs/<name>/features for who asks next.

        Errors: UserError for weights that do not fit the experiment.
        """
        experiment, options = self.experiment, self.options
        name = "untrained" if untrained else "trained"
        file = f"{name}-{options.sampling}-{options.views}x{options.spatial_views}-{options.layer}.safetensors"
        weights = (experiment.pretrain.seed, experiment.objective.kind) if untrained else self.sha256
        made_of = repr((
            weights, self.spec.inputs["clips"], file, experiment.clip.model_dump(include={"frames", "stride", "size"}),
            experiment.model.model_dump(exclude={"init", "checkpoint_activations"}),
        ))  # fmt: skip

        @functools.cache
        def encoder() -> Encoder:
            made = build_model(experiment).encoder if untrained else load_encoder(self.source, model_config(experiment))
            if options.layer == "block":
                made.norm = nn.Identity()
            return made

        def compute(some: Videos) -> Features:
            return extract(
                encoder(), ViewDataset(some, experiment.clip, options, experiment.pretrain.decoder),
                workers=loader_workers(experiment, self.device.type), device=self.device,
                title=f"{self.spec.stage}, {name}",
            )  # fmt: skip

        return kept_features(self.spec.folder.parent / "features" / file, made_of, videos, compute)


class Missing(NamedTuple):
    """The videos without features."""

    wrong: NDArray[np.int64]  # labels of the test videos that count as wrong
    counts: dict[str, int]
    warnings: list[str]


def missing_videos(section: str, options: Frozen, videos: Videos, train: Bools, read_S: Bools) -> Missing:
    """Those that could not be read, and those of the test split that the dataset's lists have and the shards have not.

    Errors: UserError when nothing is left to learn from or to judge by.
    """
    for name, of_part in (("training", train), ("test", ~train)):
        if not (of_part & read_S).any():
            raise UserError(
                f"none of the {int(of_part.sum())} {name} videos could be read: the reasons are reported above"
            )
    absent = [row["label"] for row in absent_videos(videos.where(~train), options.test_split)]
    unread = videos.column("label")[~train & ~read_S].tolist()
    counts = {"unread": len(unread), "absent": len(absent), "unread_training": int((train & ~read_S).sum())}
    warnings = []
    if unread or absent:
        what = {"wrong": "count as wrong", "exclude": "are left out"}[options.missing]
        warnings.append(
            f"{len(unread) + len(absent)} of {int((~train).sum()) + len(absent)} test videos {what} "
            f"({section}.missing): {len(unread)} could not be read, {len(absent)} are not in the shards"
        )
    if counts["unread_training"]:
        warnings.append(
            f"{counts['unread_training']} of {int(train.sum())} training videos could not be read and are left out"
        )
    wrong = unread + absent if options.missing == "wrong" else []
    return Missing(np.asarray(wrong, np.int64), counts, warnings)


def _check_model(experiment: Experiment, run: Path) -> None:
    """Refuses to load weights into the model of another config."""
    record = required_record(run, "tgmae pretrain").config
    for name in ("clip", "model"):
        asked = getattr(experiment, name)
        trained = {**type(asked)().model_dump(mode="json"), **record[name]}  # older runs lack the keys of today
        wrong = [f"{name}.{key}" for key, value in asked.model_dump(mode="json").items()
                 if trained[key] != value and key not in ("init", "checkpoint_activations")]  # fmt: skip
        if wrong:
            raise UserError(
                f"{run} was trained with another {', '.join(wrong)}: judge it with its own {run / 'config.toml'}"
            )
