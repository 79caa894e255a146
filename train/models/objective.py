"""What pretraining minimises: the model, its heads and losses as one module, built from an experiment.

Shape suffixes: B clips of this rank's micro-batch, T frames, H rows, W columns, C channels; N tokens
of a clip, V visible and M predicted ones; D width of the text embeddings.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from schemas.config import Experiment
from schemas.errors import UserError
from train.models.arvideo import ARVideoModel
from train.models.cubes import cubes_from_clip
from train.models.losses import PredictionHead, Temperature, contrastive_loss, reconstruction_loss
from train.models.sizes import model_config
from train.models.videomae import PretrainModel
from train.models.weights import read_weights, start_from

__all__ = ["Objective", "build_model", "model_config"]


def build_model(experiment: Experiment) -> PretrainModel | ARVideoModel:
    """The untrained model, a function of pretrain.seed alone. Errors: UserError for sizes that do not fit."""
    torch.manual_seed(experiment.pretrain.seed)
    config = model_config(experiment)
    return ARVideoModel(config, experiment.arvideo) if experiment.objective.kind == "arvideo" else PretrainModel(config)


class Objective(nn.Module):
    """Weighted sum of the masked-autoencoder loss and the video-text InfoNCE (paper sections 3.1 and 3.4)."""

    def __init__(self, experiment: Experiment, text_width: int | None) -> None:
        """text_width: D, or None where the run has no contrastive part."""
        super().__init__()
        self.options = experiment.objective
        self.model = build_model(experiment)
        self.start = "untrained"  # in words
        if experiment.model.init:
            self.start = start_from(self.model, read_weights(Path(experiment.model.init), self.model.config))
        self.contrastive = self.options.contrastive > 0
        if self.contrastive:
            assert text_width is not None
            self.head = PredictionHead(self.model.config.dim, text_width)
            try:
                self.temperature = Temperature(self.options.temperature, learnable=self.options.learn_temperature)
            except ValueError as error:
                raise UserError(f"objective.temperature: {error}") from error
        if not self.options.reconstruction:
            # Not computed, so it has no gradient: DistributedDataParallel would wait for one.
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name.startswith("encoder."))

    def forward(
        self,
        clip_BTHWC: Tensor,
        visible_index_BV: Tensor,
        predicted_index_BM: Tensor,
        text_BD: Tensor | None,
        caption_id_B: Tensor,
        weight_BM: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Float32 scalars: `loss`, which is to be minimised, and its parts, unweighted."""
        config = self.model.config
        cubes_BNK = cubes_from_clip(clip_BTHWC, config.patch_size, config.tubelet)
        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=clip_BTHWC.device)
        if self.options.reconstruction:
            prediction_BMK, encoded_BVD, _ = self.model.forward_split(cubes_BNK, visible_index_BV, predicted_index_BM)
            parts["reconstruction"] = reconstruction_loss(
                prediction_BMK, cubes_BNK, predicted_index_BM, norm=self.options.norm_pixels, weight_BM=weight_BM
            )
            total = total + self.options.reconstruction * parts["reconstruction"]
        else:
            encoded_BVD = self.model.encoder(cubes_BNK, visible_index_BV)
        if self.contrastive:
            assert text_BD is not None
            video_BD = self.head(encoded_BVD.mean(1))
            caption_id = caption_id_B if self.options.false_negatives == "drop" else None
            parts["contrastive"] = contrastive_loss(video_BD, text_BD, self.temperature(), caption_id)
            total = total + self.options.contrastive * parts["contrastive"]
        return {"loss": total, **parts}

    def compile_model(self, mode: str | None = None) -> None:
        """Compile the model, not the losses: those talk to other ranks, and their time is small. mode: torch's."""
        model = self.model
        model.forward_split = torch.compile(model.forward_split, mode=mode)  # type: ignore[method-assign, assignment]
        model.encoder.forward = torch.compile(model.encoder.forward, mode=mode)  # type: ignore[method-assign]
