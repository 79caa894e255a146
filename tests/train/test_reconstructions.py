"""What a checkpoint makes of a clip: hidden patches are guessed, visible ones stay, and nothing hidden is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.workspace import Workspace
from train.models.sizes import VideoMAEConfig
from train.models.videomae import Encoder, PretrainModel
from train.reconstructions import centre_attention, checkpoints, reconstruct

CONFIG = VideoMAEConfig.preset("tiny", image_size=32, patch_size=8, frames=4)


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hidden() -> np.ndarray:
    mask = np.zeros((2, 4, 4), bool)
    mask[:, 1:3, 1:3] = True
    return mask


def pixels(hidden: np.ndarray) -> np.ndarray:
    """bool [T, H, W]"""
    return hidden.repeat(2, 0).repeat(8, 1).repeat(8, 2)


@pytest.mark.parametrize("norm", [True, False])
def test_visible_pixels_stay_and_hidden_ones_are_guessed(clip: torch.Tensor, hidden: np.ndarray, norm: bool) -> None:
    torch.manual_seed(0)
    made = reconstruct(PretrainModel(CONFIG).eval(), clip, hidden, norm=norm)
    inside = pixels(hidden)
    assert np.array_equal(made.clip_THWC[~inside], clip.numpy()[~inside])
    assert not np.array_equal(made.clip_THWC[inside], clip.numpy()[inside])
    assert np.isfinite(made.error)


def test_the_neighbours_statistics_give_nothing_of_what_is_hidden_away(clip: torch.Tensor, hidden: np.ndarray) -> None:
    """Whatever is behind the mask, the picture is the same; with the true statistics it is not."""
    torch.manual_seed(0)
    model, other = PretrainModel(CONFIG).eval(), clip.clone()
    other[torch.from_numpy(pixels(hidden))] = 255
    first, second = (reconstruct(model, each, hidden).clip_THWC for each in (clip, other))
    assert np.array_equal(first, second)
    first, second = (reconstruct(model, each, hidden, statistics="true").clip_THWC for each in (clip, other))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_attention_of_the_middle_patch_is_a_distribution(clip: torch.Tensor, attention: str) -> None:
    torch.manual_seed(0)
    config = VideoMAEConfig.preset("tiny", image_size=32, patch_size=8, frames=4, attention=attention)
    found = centre_attention(Encoder(config).eval(), clip)
    assert found.shape == (2, 4, 4) and found.min() >= 0 and found.sum() == pytest.approx(1, abs=1e-5)
    if attention == "divided":
        assert found[0].sum() == 0


def test_attention_is_that_of_the_block(clip: torch.Tensor) -> None:
    """Values that are one-hot by token turn the last block's attention into its own weights."""
    torch.manual_seed(0)
    encoder = Encoder(CONFIG).eval()
    found = centre_attention(encoder, clip).reshape(-1)
    seen: list[torch.Tensor] = []
    attention = encoder.blocks[-1].attn
    handle = attention.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder(clip[None])
    handle.remove()
    x, heads, width = seen[0][0], CONFIG.heads, CONFIG.dim // CONFIG.heads
    bias = torch.cat((attention.q_bias, torch.zeros_like(attention.v_bias), attention.v_bias))
    q, k, _ = (torch.nn.functional.linear(x, attention.qkv.weight, bias)).view(-1, 3, heads, width).permute(1, 2, 0, 3)
    weights = (q @ k.transpose(1, 2) / width**0.5).softmax(-1).mean(0)
    assert np.allclose(found, weights[1 * 16 + 2 * 4 + 2].detach().numpy(), atol=1e-6)


def test_checkpoints_are_named_in_their_order(tmp_path: Path) -> None:
    for name in ("checkpoints/step_0000020", "checkpoints/step_0000003", "."):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    assert list(checkpoints(tmp_path)) == ["step_0000003", "step_0000020", "model"]


def test_a_damaged_checkpoint_is_a_message(tmp_path: Path) -> None:
    from train.reconstructions import load_checkpoint

    (tmp_path / "config.toml").write_text('workspace = "w"\n[model]\nsize = "tiny"\n[clip]\nsize = 32\nframes = 4\n')
    with pytest.raises(UserError, match="there are none yet"):
        load_checkpoint(tmp_path, "model")


@pytest.mark.medium
def test_pictures_during_training_change_no_weight(small: Callable[..., Experiment], workspace: Workspace) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from train.pretrain import run_pretrain

    run_pretrain(small(name="plain"))
    run_pretrain(small(name="seen", pretrain={"pictures_every": 2}))
    plain, seen = ((workspace.run(name) / "model.safetensors").read_bytes() for name in ("plain", "seen"))
    assert plain == seen
    board = EventAccumulator(str(workspace.run("seen") / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Images("reconstruction")] == [2, 4, 6, 8]
