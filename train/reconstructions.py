"""What a checkpoint makes of a clip: the pixels that it guesses behind the mask, and what a patch attends to.

Shape suffixes: T frames, H rows, W columns, C channels; T' time slices, h x w the token grid; N tokens, V visible and
M hidden ones; K values of a cube, channel fastest.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.toml import load_experiment
from train.engine.checkpoint_files import FOLDER
from train.models.attention import DividedBlock
from train.models.cubes import clip_from_cubes, cubes_from_clip, gather_tokens, to_unit
from train.models.losses import pixel_target
from train.models.objective import build_model
from train.models.videomae import Encoder, PretrainModel, split_mask
from train.models.weight_files import MODEL
from train.models.weights import load_weights

Statistics = Literal["neighbours", "true"]
STATISTICS = {
    "neighbours": "brightness and contrast of hidden patches guessed from the visible ones around them",
    "true": "brightness and contrast of hidden patches taken from the original, which gives a part of it away",
}
REACH = 1.0  # tokens: the deviation of the Gaussian by which visible neighbours count


class Reconstruction(NamedTuple):
    clip_THWC: NDArray[np.uint8]  # the guess where hidden, the clip where visible
    error: float  # mean squared error over the hidden tokens, as the loss counts it


def checkpoints(run: Path) -> dict[str, Path]:
    """The weights that are there of a run, by name, in their order: those of its checkpoints, and at last its model."""
    found = {path.parent.name: path for path in sorted((run / FOLDER).glob(f"step_*/{MODEL}"))}
    return found | ({"model": run / MODEL} if (run / MODEL).is_file() else {})


def load_checkpoint(run: Path, name: str) -> tuple[Experiment, PretrainModel]:
    """The experiment of a run and its model with the weights of that name ("untrained": as it began), on the CPU.

    Errors: UserError where there are no such weights, or the run predicts otherwise than by masks (ARVideo).
    """
    experiment, there = load_experiment(run / "config.toml"), checkpoints(run)
    model = build_model(experiment)
    if not isinstance(model, PretrainModel):
        raise UserError(f"{run} predicts clusters in an order (objective.kind = 'arvideo'): it has no reconstruction")
    if name != "untrained":
        if name not in there:
            raise UserError(f"{run} has no weights {name!r}: there are {', '.join(there) or 'none yet'}")
        state = load_weights(there[name])
        if name != "model":  # a checkpoint holds the whole objective
            state = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"the weights of {there[name]} are not those of {run / 'config.toml'}: {error}") from error
    return experiment, model.eval()


@torch.inference_mode()
def reconstruct(model: PretrainModel, clip_THWC: Tensor, hidden_THW: NDArray[np.bool_], *, norm: bool = True,
                statistics: Statistics = "neighbours") -> Reconstruction:  # fmt: skip
    """clip: uint8 of the model's size; norm: whether it was trained on normalised pixels (objective.norm_pixels).

    Such a model predicts each patch without its mean and deviation. "true" gives it those of the original, as is usual
    in papers; "neighbours" gives it what the visible patches around it have, so that nothing hidden is looked at.
    """
    c, device = model.config, model.mask_token.device
    cubes_1NK = cubes_from_clip(clip_THWC[None].to(device), c.patch_size, c.tubelet)
    visible_1V, hidden_1M = (
        index.to(device) for index in split_mask(torch.from_numpy(hidden_THW.reshape(1, -1)), c.tokens)
    )
    prediction_1MK = model.forward_split(cubes_1NK, visible_1V, hidden_1M).prediction_BMK.float()
    target_1MK = pixel_target(gather_tokens(cubes_1NK, hidden_1M), norm=norm)
    error = float(F.mse_loss(prediction_1MK, target_1MK))
    unit_1NK = to_unit(cubes_1NK)
    guess_MK = prediction_1MK[0]
    if norm:
        by_channel = unit_1NK[0].unflatten(-1, (-1, c.in_chans))
        deviation_NC, mean_NC = torch.std_mean(by_channel, dim=1)
        if statistics == "neighbours":
            weight_MV = _nearness(hidden_1M[0], visible_1V[0], c.grid)
            mean_MC, deviation_MC = weight_MV @ mean_NC[visible_1V[0]], weight_MV @ deviation_NC[visible_1V[0]]
        else:
            mean_MC, deviation_MC = mean_NC[hidden_1M[0]], deviation_NC[hidden_1M[0]]
        pixels = guess_MK.unflatten(-1, (-1, c.in_chans)) * deviation_MC[:, None] + mean_MC[:, None]
        guess_MK = pixels.flatten(1)
    filled_1NK = unit_1NK.clone()
    filled_1NK[0, hidden_1M[0]] = guess_MK
    clip = clip_from_cubes(filled_1NK, c.grid, c.patch_size, c.tubelet)[0]
    return Reconstruction((clip.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy(), error)


def _nearness(hidden_M: Tensor, visible_V: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """How much each visible token counts for each hidden one, rows summing to 1: float32 [M, V]."""
    _, h, w = grid

    def places(index: Tensor) -> Tensor:
        return torch.stack((index // (h * w), index // w % h, index % w), -1).float()

    return torch.softmax(-torch.cdist(places(hidden_M), places(visible_V)).square() / (2 * REACH**2), dim=1)


@torch.inference_mode()
def centre_attention(encoder: Encoder, clip_THWC: Tensor) -> NDArray[np.float32]:
    """What the patch in the middle of the middle time slice attends to in the last block: [T', h, w], summing to 1.

    Mean over the heads, of all tokens of the clip. Of divided attention: of its slice, for that is all that its spatial
    part looks at.
    """
    c, (t, h, w) = encoder.config, encoder.config.grid
    seen: list[Tensor] = []
    last = encoder.blocks[-1]
    assert isinstance(last.attn, torch.nn.Module)
    hook = last.attn.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        encoder(clip_THWC[None].to(encoder.positions.device))
    finally:
        hook.remove()
    attention = last.attn
    token = (t // 2) * h * w + (h // 2) * w + w // 2
    x_ND = seen[0].flatten(0, 1)  # of divided attention slice after slice, which is the same order
    d, heads = c.dim, c.heads
    weight = attention.qkv.weight  # type: ignore[union-attr]
    query_Hd = F.linear(x_ND[token], weight[:d], attention.q_bias).view(heads, -1)  # type: ignore[index, arg-type]
    key_NHd = F.linear(x_ND, weight[d : 2 * d]).view(len(x_ND), heads, -1)  # type: ignore[index]
    scores_HN = torch.einsum("hd,nhd->hn", query_Hd, key_NHd) / query_Hd.shape[1] ** 0.5
    if isinstance(last, DividedBlock):
        other = torch.arange(len(x_ND), device=x_ND.device) // (h * w) != t // 2
        scores_HN = scores_HN.masked_fill(other, -torch.inf)
    return np.asarray(scores_HN.float().softmax(-1).mean(0).reshape(t, h, w).cpu().numpy(), np.float32)
