"""What a clip costs the model: FLOPs by torch's counter, and memory by a formula.

Memory a process: 16 bytes a parameter (itself, its gradient, AdamW's two moments, float32), and what the backward pass
needs of each token in each block: 34 times the width in bytes for half precision (Korthikanti et al. 2022, "Reducing
activation recomputation", their formula without the attention's matrix, which SDPA does not keep), twice that for
float32; with checkpoint_activations only each block's input, and one block in full.
"""

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from schemas.config import Experiment
from train.masking.masks import hidden_per_slice
from train.models.sizes import VideoMAEConfig, model_config
from train.models.videomae import Classifier, PretrainModel

STATE = 16  # bytes a parameter
KEPT = 34  # bytes a token, block and unit of width, in half precision
INPUT = 4  # of a block's input, float32


class Flops(NamedTuple):
    """Of a clip. Backward is twice forward."""

    pretraining: float
    finetuning: float
    forward: float  # of all tokens


class Memory(NamedTuple):
    """Bytes of one process."""

    state: float
    activations: float

    @property
    def total(self) -> float:
        return self.state + self.activations


def flops(experiment: Experiment) -> Flops:
    config, meta = model_config(experiment), torch.device("meta")  # shapes without numbers
    clip = torch.empty(1, config.frames, config.image_size, config.image_size, 3, device=meta)
    tokens, hidden = config.tokens, hidden_tokens(experiment, config)
    with meta:
        model, classifier = PretrainModel(config), Classifier(config, 400)
    model, classifier = model.to(meta), classifier.to(meta)  # what came from numpy, too
    visible, masked = torch.arange(tokens - hidden, device=meta), torch.arange(tokens - hidden, tokens, device=meta)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model.forward_split(clip, visible[None], masked[None])
    pretraining = 3.0 * counted.get_total_flops()
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        classifier(clip)
    forward = float(counted.get_total_flops())
    return Flops(pretraining, 3 * forward, forward)


def hidden_tokens(experiment: Experiment, config: VideoMAEConfig) -> int:
    """Of a clip."""
    patches = (config.image_size // config.patch_size) ** 2
    return int(hidden_per_slice(experiment.mask.ratio, patches) * config.tokens // patches)


def parameters(experiment: Experiment) -> int:
    """Of the model that is pretrained, its decoder included."""
    with torch.device("meta"):
        model = PretrainModel(model_config(experiment))
    return sum(each.numel() for each in model.parameters())


def memory(experiment: Experiment, clips: int, *, precision: str, sharded_over: int = 1) -> Memory:
    """Of pretraining with so many clips of a micro-batch at once. sharded_over: processes of FSDP2."""
    config = model_config(experiment)
    visible = config.tokens - hidden_tokens(experiment, config)
    wide = 1 if precision == "bfloat16" else 2
    encoder, decoder = visible * config.dim, config.tokens * config.decoder_dim
    if experiment.model.checkpoint_activations:
        kept = INPUT * (encoder * config.depth + decoder * config.decoder_depth) + wide * KEPT * max(encoder, decoder)
    else:
        kept = wide * KEPT * (encoder * config.depth + decoder * config.decoder_depth)
    return Memory(STATE * parameters(experiment) / sharded_over, float(clips * kept))
