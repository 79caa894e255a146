"""One process's part of a pretraining run: everything is built from the experiment."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from schemas.config import ARVideo, Experiment, Mask
from schemas.stage import StageSpec
from schemas.workspace import Workspace
from train.data.sampling import BatchPlan, updates
from train.data.stream import Batch, ClipDataset, stream, text_width
from train.data.videos import videos_to_pretrain_on
from train.engine.device_defaults import compile_mode, compiles, loader_workers
from train.engine.distributed import Ranks
from train.engine.loop import Loop, Settings, common_facts
from train.masking.masks import hidden_per_slice
from train.models.arvideo import cut, kept_tokens
from train.models.objective import Objective
from train.models.videomae import PretrainModel


class Trainer(Loop):
    """Pretraining's part of the loop: its videos, its batches and its losses."""

    def __init__(self, experiment: Experiment, spec: StageSpec, ranks: Ranks) -> None:
        text = experiment.text_name
        videos, self.left_out = videos_to_pretrain_on(
            Workspace(Path(experiment.workspace)), experiment.guide_name, text
        )
        self.objective = Objective(experiment, None if text is None else text_width(videos, text))
        self.objective.to(ranks.device)
        total = updates(len(videos), experiment.optim, experiment.clip.repeats)
        self.compiled = compiles(experiment, ranks.device.type, total)
        if self.compiled:
            self.objective.compile_model(compile_mode(experiment))
        names = ["loss", *["reconstruction"] * bool(experiment.objective.reconstruction),
                 *["contrastive"] * self.objective.contrastive]  # fmt: skip
        super().__init__(experiment, spec, ranks, videos=videos, module=self.objective, names=names,
                         settings=Settings(experiment.optim, experiment.pretrain, "optim",
                                           repeats=experiment.clip.repeats))  # fmt: skip
        if self.objective.contrastive:
            self.optimizer.register_step_post_hook(lambda *_: self.objective.temperature.bound())
        self.info = common_facts(self) | _facts(self)
        self.say(*(f"{name}: {text}" for name, text in self.info.items()))

    def batches(self, plan: BatchPlan) -> Iterator[Batch]:
        dataset = ClipDataset(self.videos, self.experiment, self.objective.model.config.grid)
        return stream(dataset, plan, workers=loader_workers(self.experiment, self.ranks.device.type),
                      pin=self.ranks.device.type == "cuda")  # fmt: skip

    def picture(self) -> NDArray[np.uint8] | None:
        """Of the first video's first clip, always with the same crop and mask."""
        model, experiment = self.objective.model, self.experiment
        if not isinstance(model, PretrainModel) or experiment.pretrain.fsdp:  # a shard of a model sees nothing alone
            return None
        from train.pictures import reconstruction_picture
        from train.reconstructions import centre_attention, reconstruct

        sample = ClipDataset(self.videos, experiment, model.config.grid).samples(0, 0)[0]
        hidden_THW = sample.mask_N.numpy().reshape(model.config.grid)
        model.eval()
        made = reconstruct(model, sample.clip_THWC, hidden_THW, norm=experiment.objective.norm_pixels)
        attention_THW = centre_attention(model.encoder, sample.clip_THWC)
        model.train()
        return reconstruction_picture(sample.clip_THWC.numpy(), hidden_THW, made.clip_THWC, attention_THW, size=96)

    def losses(self, batch: Batch, micro: int) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = self.wrapped(
            batch.clip_BTHWC, batch.visible_index_BV, batch.predicted_index_BM, batch.text_BD, batch.caption_id_B,
            batch.weight_BM,
        )  # fmt: skip
        return parts


def _facts(trainer: Trainer) -> dict[str, str]:
    experiment, plan, objective = trainer.experiment, trainer.plan, trainer.objective
    config, left_out, repeats = objective.model.config, trainer.left_out, experiment.clip.repeats
    facts = {
        "left out": ", ".join(f"{count} videos {reason}" for reason, count in left_out.items()) or "none",
        **(
            _cluster_facts(experiment.arvideo, config.grid)
            if experiment.objective.kind == "arvideo"
            else mask_facts(experiment.mask, config.grid)
        ),
        "start": objective.start,
        "model": f"{experiment.model.size}, {sum(p.numel() for p in objective.parameters()) / 1e6:.1f} M parameters",
    }
    if repeats > 1:
        facts["repeats"] = (
            f"each decoded video gives {repeats} clips of one batch, {plan.videos_per_batch} videos a batch"
        )
    if objective.contrastive:
        facts["negatives"] = f"those of one micro-batch over all processes, {plan.batch_size // plan.accumulate} clips"
        if repeats > 1 and experiment.objective.false_negatives == "keep":
            facts["negatives"] += (
                "; among them the other clips of the same video and caption (false_negatives = 'keep')"
            )
    return facts


def _cluster_facts(options: ARVideo, grid: tuple[int, int, int]) -> dict[str, str]:
    count, size = cut(grid, options.cluster).tokens_KS.shape
    kept = kept_tokens(size, options.drop)
    text = (
        f"{count} of {' x '.join(map(str, options.cluster))} tokens, {options.order} order; the encoder sees {kept} of "
    )
    text += (
        f"{size} tokens of {count - 1} of them ({kept * (count - 1)} in all), the decoder predicts {(count - 1) * size}"
    )
    return {"clusters": text}


def mask_facts(mask: Mask, grid: tuple[int, int, int]) -> dict[str, str]:
    """How many tokens are hidden, and how many predicted, in words."""
    slices, patches = grid[0], grid[1] * grid[2]
    hidden = hidden_per_slice(mask.ratio, patches)
    where = f"{hidden} of {patches} patches in each of {slices} slices"
    if mask.kind == "random":
        where = f"{slices * hidden} of {slices * patches} patches of the clip"
    text = f"{mask.kind} hides {where} (ratio {mask.ratio}), so {slices * (patches - hidden)} tokens are visible"
    if mask.text_share != (1.0, 1.0):
        text += "; scores choose {:g} of the hidden ones at first, {:g} at last, chance the rest".format(
            *mask.text_share
        )
    facts = {"mask": text}
    if mask.decoder_ratio:
        predicted = round((1 - mask.decoder_ratio) * slices * patches)
        facts["decoder"] = (
            f"predicts {predicted} of {slices * patches} tokens (running cells, ratio {mask.decoder_ratio}); "
            "the loss counts the hidden ones among them"
        )
    return facts
