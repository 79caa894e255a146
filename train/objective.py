"""What pretraining minimises: the model, its heads and losses as one module, built from an experiment.

Shape suffixes: B clips of this rank's micro-batch, T frames, H rows, W columns, C channels; N tokens
of a clip, V visible and M hidden ones; D width of the text embeddings.
"""

import torch
from torch import Tensor, nn

from schemas.config import Experiment
from schemas.errors import UserError
from train.cubes import cubes_from_clip
from train.losses import PredictionHead, Temperature, contrastive_loss, reconstruction_loss
from train.model import PretrainModel, VideoMAEConfig


def model_config(experiment: Experiment) -> VideoMAEConfig:
    """Sizes of the experiment's model: the preset's widths and depths, the experiment's clip and patch.

    Errors: UserError for sizes that do not fit one another.
    """
    clip, model = experiment.clip, experiment.model
    changes = {"decoder_depth": model.decoder_depth} if model.decoder_depth else {}
    try:
        return VideoMAEConfig.preset(
            model.size, image_size=clip.size, patch_size=model.patch, frames=clip.frames, tubelet=model.tubelet,
            checkpointing=model.checkpoint_activations, **changes,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"model and clip do not fit: {error}") from error


def build_model(experiment: Experiment) -> PretrainModel:
    """The untrained model, a function of pretrain.seed alone."""
    torch.manual_seed(experiment.pretrain.seed)
    return PretrainModel(model_config(experiment))


class Objective(nn.Module):
    """Weighted sum of the masked-autoencoder loss and the video-text InfoNCE (paper sections 3.1 and 3.4)."""

    def __init__(self, experiment: Experiment, text_width: int | None) -> None:
        """text_width: D, or None where the run has no contrastive part."""
        super().__init__()
        self.options = experiment.objective
        self.model = build_model(experiment)
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
            for part in (self.model.decoder, self.model.encoder_to_decoder):
                part.requires_grad_(False)
            self.model.mask_token.requires_grad_(False)

    def forward(
        self,
        clip_BTHWC: Tensor,
        visible_index_BV: Tensor,
        hidden_index_BM: Tensor,
        text_BD: Tensor | None,
        caption_id_B: Tensor,
    ) -> dict[str, Tensor]:
        """Float32 scalars: `loss`, which is to be minimised, and its parts, unweighted."""
        config = self.model.config
        cubes_BNK = cubes_from_clip(clip_BTHWC, config.patch_size, config.tubelet)
        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=clip_BTHWC.device)
        if self.options.reconstruction:
            prediction_BMK, encoded_BVD, _ = self.model.forward_split(cubes_BNK, visible_index_BV, hidden_index_BM)
            parts["reconstruction"] = reconstruction_loss(
                prediction_BMK, cubes_BNK, hidden_index_BM, norm=self.options.norm_pixels
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

    def compile_model(self) -> None:
        """Compile the model, not the losses: those talk to other ranks, and their time is small."""
        self.model.forward_split = torch.compile(self.model.forward_split)  # type: ignore[method-assign]
        self.model.encoder.forward = torch.compile(self.model.encoder.forward)  # type: ignore[method-assign]
