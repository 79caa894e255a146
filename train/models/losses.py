"""The two losses: pixels of hidden tokens (VideoMAE) and video-text InfoNCE (paper section 3.4).

Both are computed in float32, whatever the model runs in. Under DistributedDataParallel, which
averages gradients over ranks, each gives the gradient of one process with the global batch,
provided all ranks hold equally many clips (drop_last).

Shape suffixes: B clips of this rank, G of all ranks; N tokens of a clip, M hidden ones; K values
of one cube (p0*p1*p2*3, channel fastest); D embedding width.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from train.models.cubes import gather_tokens, to_unit, unnormalise


def pixel_target(cubes_BMK: Tensor, *, norm: bool = True) -> Tensor:
    """What the decoder should predict for these cubes, float32 [B, M, K].

    cubes_BMK: uint8 pixels, or floating ones that are ImageNet-normalised, as for the encoder.
    They are taken back to [0, 1]; with norm, each token's each channel then has its mean over
    the p0*p1*p2 pixels subtracted and is divided by their standard deviation (unbiased; 1e-6 added
    to the deviation, not to the variance), as in VideoMAE's engine_for_pretraining. From uint8
    a flat patch has target 0 exactly; from floats, the rounding of its pixels, magnified.
    """
    pixels = unnormalise(cubes_BMK) if cubes_BMK.is_floating_point() else to_unit(cubes_BMK)
    if not norm:
        return pixels
    by_channel = pixels.reshape(*pixels.shape[:-1], -1, 3)
    variance, mean = torch.var_mean(by_channel, dim=-2, keepdim=True)
    normalised: Tensor = (by_channel - mean) / (variance.sqrt() + 1e-6)
    return normalised.flatten(-2)


def reconstruction_loss(
    prediction_BMK: Tensor,
    cubes_BNK: Tensor,
    predicted_index_BM: Tensor,
    *,
    norm: bool = True,
    weight_BM: Tensor | None = None,
) -> Tensor:
    """Mean squared error over every pixel of every predicted token (paper section 3.1), a scalar.

    cubes_BNK: the whole clip's, see pixel_target; only the predicted ones are converted. weight_BM: of
    each token in the mean, 1 for hidden and 0 for visible ones where the decoder predicts both (VideoMAE
    V2, train/masking/decoder_cells.py); None: all alike. The weights' sum is that over all ranks, in one micro-batch.
    """
    with torch.no_grad():
        target_BMK = pixel_target(gather_tokens(cubes_BNK, predicted_index_BM), norm=norm)
    if weight_BM is None:
        return F.mse_loss(prediction_BMK.float(), target_BMK)
    error_BM = (prediction_BMK.float() - target_BMK).square().mean(-1)
    # As if the ranks' mean were one process's: each divides by the mean count, not by its own.
    count = all_reduce_sum(weight_BM.sum()).clamp(min=1) / _world()
    return (error_BM * weight_BM).sum() / count


def contrastive_loss(
    video_BD: Tensor,
    text_BD: Tensor,
    temperature: float | Tensor,
    caption_id_B: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE (equation 4, both directions averaged) of this rank's rows, a scalar.

    Features need not be normalised. Negatives are the other videos or texts of the global
    batch. With caption_id_B (int64), pairs of another video with the same caption id are no
    negatives: their text is the positive itself.

    Scaling: this rank's B rows are scored against all G columns and averaged over B, and the
    gathering has the exact gradient (each rank gets the sum of what all ranks owe its features).
    So the mean over ranks of this loss, which is what averaged gradients descend, is the loss of
    one process with the whole batch. No factor of the world size is needed or wanted.
    """
    # Autocast would turn the products below to half precision: exp(sim / 0.01) cannot bear that.
    with torch.autocast(video_BD.device.type, enabled=False):
        video_BD, text_BD = F.normalize(video_BD.float(), dim=-1), F.normalize(text_BD.float(), dim=-1)
        video_GD, text_GD = gather(video_BD), gather(text_BD)
        label_B = torch.arange(len(video_BD), device=video_BD.device) + _rank() * len(video_BD)
        v2t_BG = video_BD @ text_GD.T / temperature
        t2v_BG = text_BD @ video_GD.T / temperature
        if caption_id_B is not None:
            same_BG = caption_id_B[:, None] == gather(caption_id_B)[None, :]
            same_BG = same_BG.scatter(1, label_B[:, None], False)
            v2t_BG, t2v_BG = (x.masked_fill(same_BG, -math.inf) for x in (v2t_BG, t2v_BG))
        return (F.cross_entropy(v2t_BG, label_B) + F.cross_entropy(t2v_BG, label_B)) / 2


class Temperature(nn.Module):
    """tau of equation 4: fixed, or learnt on a log scale and kept at or above `minimum`.

    The paper gives no value; 0.07 to start and 0.01 as the lower bound are CLIP's.
    """

    log_temperature: Tensor

    def __init__(self, initial: float = 0.07, *, learnable: bool = False, minimum: float = 0.01) -> None:
        super().__init__()
        if not 0 < minimum <= initial:
            raise ValueError(f"temperature {initial} must be at least its minimum {minimum}, and that above 0")
        self.learnable, self.minimum = learnable, minimum
        value = torch.tensor([math.log(initial)])  # FSDP shards no scalars
        if learnable:
            self.log_temperature = nn.Parameter(value)
        else:
            self.register_buffer("log_temperature", value)

    def forward(self) -> Tensor:
        """The temperature, a float32 scalar."""
        return self.log_temperature.exp().squeeze(0)

    @torch.no_grad()
    def bound(self) -> None:
        """Puts a learnt value back into bounds, after an update: a clamp in the graph would have no gradient beyond
        the bound and never come back."""
        self.log_temperature.clamp_(min=math.log(self.minimum))


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """nn.BatchNorm1d over the batches of all ranks, with exact gradients, on any backend.

    The "global batch norm" of paper section 3.4 (SimCLR's): with statistics of each rank alone,
    the head could tell positives from negatives by them. torch's SyncBatchNorm is for GPUs only.
    Input [B, D]; the weights and running statistics are nn.BatchNorm1d's.
    """

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(features, eps=eps, momentum=momentum)
        self.momentum: float = momentum

    def forward(self, x_BD: Tensor) -> Tensor:
        if not self.training or _world() == 1:
            return super().forward(x_BD)
        x = x_BD.float()
        totals = all_reduce_sum(torch.cat((x.sum(0), x.new_full((1,), len(x)))))
        count = totals[-1].detach()
        centred = x - totals[:-1] / count
        variance = all_reduce_sum(centred.square().sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(totals[:-1] / count, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        out = centred * (variance + self.eps).rsqrt() * self.weight + self.bias
        return out.to(x_BD.dtype)


class PredictionHead(nn.Sequential):
    """Linear, global batch norm, ReLU, linear: [B, dim] to [B, out_dim].

    The paper names the head after SimCLR's without sizes: one hidden layer as wide as the
    encoder, then the width of the text embedding. The norm makes the first bias superfluous.
    """

    def __init__(self, dim: int, out_dim: int, hidden: int | None = None) -> None:
        hidden = hidden or dim
        super().__init__(
            nn.Linear(dim, hidden, bias=False),
            GlobalBatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, out_dim),
        )


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks. A rank's input is in every rank's output, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    """Concatenate over ranks. A rank's gradient is its slice of the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(_world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # Not reduce_scatter: gloo has none, and these are a few megabytes.
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(_world())[_rank()]


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of x over ranks, with gradient; x itself in a single process."""
    out: Tensor = x if _world() == 1 else _AllReduceSum.apply(x)
    return out


def gather(x_BD: Tensor) -> Tensor:
    """Rows of all ranks in rank order [G, ...], with gradient; x itself in a single process.

    All ranks must hold equally many rows: the collective blocks or fails otherwise.
    """
    out: Tensor = x_BD if _world() == 1 else _Gather.apply(x_BD)
    return out
