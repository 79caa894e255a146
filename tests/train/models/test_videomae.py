"""The model's parts against plain definitions; equality with transformers is in test_hf.py."""

import dataclasses
import math
import shutil
from functools import partial
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from schemas.config import Experiment
from train.models.attention import Attention, CubeEmbed, sinusoid_positions
from train.models.cubes import clip_from_cubes, cubes_from_clip, normalise, unnormalise
from train.models.objective import Objective
from train.models.sizes import PRESETS, VideoMAEConfig
from train.models.videomae import Classifier, Encoder, PretrainModel, split_mask

torch.set_num_threads(1)  # for tensors this small, threads wait longer than they work

CONFIG = VideoMAEConfig.preset("tiny", image_size=32, frames=4, depth=2, decoder_depth=1)


def clip_of(config: VideoMAEConfig, batch: int = 2, seed: int = 0) -> Tensor:
    shape = (batch, config.frames, config.image_size, config.image_size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def mask_of(config: VideoMAEConfig, hidden: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, config.tokens, generator=torch.Generator().manual_seed(seed)).argsort(1) < hidden


@pytest.mark.parametrize(
    ("preset", "millions", "grid"),
    [  # encoder parameters, without a head; VideoMAE's tables give 22, 87, 305 and 633 with one
        ("tiny", 0.484, (4, 8, 8)),
        ("small", 22, (8, 14, 14)),
        ("base", 86, (8, 14, 14)),
        ("large", 304, (8, 14, 14)),
        ("huge", 632, (8, 14, 14)),
        ("giant", 1012, (8, 16, 16)),
    ],
)
def test_presets(preset: str, millions: float, grid: tuple[int, int, int]) -> None:
    config = VideoMAEConfig.preset(preset)
    with torch.device("meta"):
        encoder = Encoder(config)
    assert config.grid == grid
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    assert set(PRESETS) == {"tiny", "small", "base", "large", "huge", "giant"}


def test_a_config_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="did you mean 'base'"):
        VideoMAEConfig.preset("bsae")
    with pytest.raises(ValueError, match="image_size=224 must be a positive multiple of patch_size=15"):
        VideoMAEConfig(patch_size=15)
    with pytest.raises(ValueError, match="dim=100 must be a positive multiple of heads=12"):
        VideoMAEConfig(dim=100)


def test_positions_are_the_transformers_over_the_flattened_index() -> None:
    table = sinusoid_positions(1568, 6)
    for index, j in ((0, 0), (1, 1), (7, 2), (1567, 3), (1000, 4)):
        angle = index / 10000 ** (2 * (j // 2) / 6)
        assert table[0, index, j] == pytest.approx(math.cos(angle) if j % 2 else math.sin(angle), abs=1e-7)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_cubes_are_cut_in_the_targets_order(t: int, h: int, w: int, tubelet: int, patch: int) -> None:
    clip = torch.randn(2, t * tubelet, h * patch, w * patch, 3)
    cubes = cubes_from_clip(clip, patch, tubelet)
    token = 0
    for i in range(t):
        for y in range(h):
            for x in range(w):
                piece = clip[:, i * tubelet :, y * patch :, x * patch :][:, :tubelet, :patch, :patch]
                assert torch.equal(cubes[:, token], piece.flatten(1))
                token += 1
    assert torch.equal(clip_from_cubes(cubes, (t, h, w), patch, tubelet), clip)
    assert torch.equal(cubes_from_clip(clip.permute(0, 4, 1, 2, 3), patch, tubelet, layout="BCTHW"), cubes)


def test_a_clip_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="3 frames of 32 x 32 cannot be cut into cubes of 2 x 8 x 8"):
        cubes_from_clip(torch.zeros(1, 3, 32, 32, 3), 8, 2)


def test_embedding_cubes_is_the_convolution() -> None:
    embed = CubeEmbed(3, 16, tubelet=2, patch=4)
    clip = torch.randn(2, 4, 8, 12, 3)
    expected = embed.proj(clip.permute(0, 4, 1, 2, 3)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(cubes_from_clip(clip, 4, 2)), expected, atol=1e-5, rtol=1e-5)


def test_attention_is_softmax_of_scaled_products_without_key_bias() -> None:
    attention = Attention(8, heads=2)
    nn.init.normal_(attention.q_bias)
    nn.init.normal_(attention.v_bias)
    x = torch.randn(1, 5, 8)
    weight_q, weight_k, weight_v = attention.qkv.weight.chunk(3)
    q, k, v = x[0] @ weight_q.T + attention.q_bias, x[0] @ weight_k.T, x[0] @ weight_v.T + attention.v_bias
    heads = [(q[:, s] @ k[:, s].T / 2).softmax(-1) @ v[:, s] for s in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(attention(x)[0], attention.proj(torch.cat(heads, -1)), atol=1e-5, rtol=1e-5)


def test_normalisation_inverts() -> None:
    pixels = torch.randint(0, 256, (2, 4, 6), dtype=torch.uint8)
    torch.testing.assert_close(unnormalise(normalise(pixels)), pixels / 255)
    torch.testing.assert_close(normalise(pixels), normalise(pixels / 255))
    with pytest.raises(ValueError, match="uint8 or floating, these are torch.int64"):
        normalise(pixels.long())


@given(st.integers(1, 15), st.integers(0, 10**6))
def test_split_mask_is_boolean_indexing(hidden: int, seed: int) -> None:
    config = VideoMAEConfig.preset("tiny", image_size=32, frames=2)
    mask = mask_of(config, hidden, batch=3, seed=seed)
    visible, masked = split_mask(mask, config.tokens)
    index = torch.arange(config.tokens).expand(3, -1)
    assert torch.equal(visible, index[~mask].view(3, -1))
    assert torch.equal(masked, index[mask].view(3, -1))


def test_a_mask_that_does_not_fit_is_refused() -> None:
    model, clip = PretrainModel(CONFIG), clip_of(CONFIG)
    uneven = mask_of(CONFIG, 20)
    uneven[1, :] = mask_of(CONFIG, 21)[1]
    with pytest.raises(ValueError, match=r"these hide \[20, 21\]"):
        model(clip, uneven)
    with pytest.raises(ValueError, match=r"bool \[B, 32\], true = hidden; got torch.bool \[2, 31\]"):
        model(clip, torch.ones(2, 31, dtype=torch.bool))
    with pytest.raises(ValueError, match="got torch.int64"):
        model(clip, mask_of(CONFIG, 20).long())
    with pytest.raises(ValueError, match="32 of 32 are hidden"):
        model(clip, torch.ones(2, 32, dtype=torch.bool))


def test_a_clip_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a clip \[B, 4, 32, 32, 3\] or cubes \[B, 32, 384\]"):
        Encoder(CONFIG)(torch.zeros(1, 4, 48, 48, 3))


def test_clips_and_cubes_uint8_and_normalised_are_the_same_input() -> None:
    torch.manual_seed(0)
    model, clip, mask = PretrainModel(CONFIG).eval(), clip_of(CONFIG), mask_of(CONFIG, 24)
    cubes = cubes_from_clip(clip, CONFIG.patch_size, CONFIG.tubelet)
    expected = model(clip, mask)
    assert expected.prediction_BMK.shape == (2, 24, 384) and expected.encoded_BVD.shape == (2, 8, 96)
    for same in (cubes, normalise(clip), normalise(cubes)):
        torch.testing.assert_close(model(same, mask).prediction_BMK, expected.prediction_BMK, atol=1e-6, rtol=1e-5)
    assert model.encoder(clip).shape == (2, 32, 96)


def test_what_is_hidden_does_not_reach_the_prediction() -> None:
    torch.manual_seed(0)
    model, mask = PretrainModel(CONFIG).eval(), mask_of(CONFIG, 24)
    cubes = cubes_from_clip(clip_of(CONFIG), CONFIG.patch_size, CONFIG.tubelet)
    other = torch.where(mask[..., None], 255 - cubes, cubes)
    assert torch.equal(model(cubes, mask).prediction_BMK, model(other, mask).prediction_BMK)


def test_in_image_mode_the_classifier_is_timms_vision_transformer() -> None:
    torch.manual_seed(0)
    config = VideoMAEConfig.preset("tiny", frames=1, tubelet=1, depth=2)
    model = Classifier(config, 5).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    reference = VisionTransformer(
        img_size=64, patch_size=8, embed_dim=96, depth=2, num_heads=3, num_classes=5, class_token=False,
        global_pool="avg", fc_norm=True, norm_layer=partial(nn.LayerNorm, eps=config.eps),
    ).eval()  # fmt: skip
    state = {name.removeprefix("encoder."): tensor for name, tensor in model.state_dict().items()}
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].squeeze(2)
    state["pos_embed"] = model.encoder.positions
    for prefix in ("blocks.0.attn.", "blocks.1.attn."):
        q, v = state.pop(prefix + "q_bias"), state.pop(prefix + "v_bias")
        state[prefix + "qkv.bias"] = torch.cat((q, torch.zeros_like(q), v))
    reference.load_state_dict(state)
    reference.fc_norm.eps = config.head_eps
    clip = clip_of(config)
    expected = reference(normalise(clip)[:, 0].permute(0, 3, 1, 2))
    torch.testing.assert_close(model(clip), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_image_mode_pretrains(attention: str) -> None:
    """From the experiment's keys to a loss that falls; a slice is then all there is."""
    experiment = Experiment.model_validate({
        "workspace": ".", "clip": {"frames": 1, "size": 32}, "mask": {"kind": "random"},
        "model": {"size": "tiny", "patch": 8, "tubelet": 1, "attention": attention},
    })  # fmt: skip
    objective = Objective(experiment, None)
    config = objective.model.config
    assert config.grid == (1, 4, 4)
    clip = clip_of(config)
    visible, hidden = split_mask(mask_of(config, 12), config.tokens)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(30):
        loss = objective(clip, visible, hidden, text_BD=None, caption_id_B=torch.zeros(2, dtype=torch.int64))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.9  # 1: what predicting the mean of normalised pixels gives


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_checkpointing_changes_neither_output_nor_gradient(attention: Literal["joint", "divided"]) -> None:
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = PretrainModel(dataclasses.replace(CONFIG, attention=attention, checkpointing=checkpointing))
        model(clip_of(CONFIG), mask_of(CONFIG, 24)).prediction_BMK.square().sum().backward()
        results.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_initialisation_is_videomaes() -> None:
    torch.manual_seed(0)
    model = PretrainModel(VideoMAEConfig.preset("tiny"))
    parameters = dict(model.named_parameters())
    qkv, token = parameters["encoder.blocks.0.attn.qkv.weight"], parameters["mask_token"]
    assert qkv.abs().max() <= math.sqrt(6 / (96 + 3 * 96))  # Xavier, of the fused matrix
    assert 0 < token.abs().max() <= 0.02
    assert all(p.abs().max() == 0 for n, p in parameters.items() if n.endswith(("fc1.bias", "q_bias")))
    head = Classifier(model.config, 10).head
    assert head.weight.std().item() == pytest.approx(0.02 * 0.001, rel=0.1)


def test_a_classifier_takes_over_the_encoder_without_its_norm() -> None:
    model = PretrainModel(CONFIG)
    classifier = Classifier(CONFIG, 3)
    classifier.load_pretrained(model.state_dict())
    model.encoder.norm = nn.Identity()
    assert torch.equal(classifier.encoder(clip_of(CONFIG)), model.encoder(clip_of(CONFIG)))
    assert classifier(clip_of(CONFIG)).shape == (2, 3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Classifier(VideoMAEConfig.preset("tiny", dim=48), 3).load_pretrained(model.state_dict())


def test_stochastic_depth_grows_with_depth_and_rests_in_evaluation() -> None:
    encoder = Encoder(VideoMAEConfig.preset("tiny", drop_path=0.3, depth=4))
    assert [getattr(b.drop_path, "drop_prob", 0.0) for b in encoder.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    clip = clip_of(encoder.config)
    assert torch.equal(encoder.eval()(clip), encoder(clip))


@pytest.mark.medium
@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_the_model_is_one_graph_for_torch_compile(attention: Literal["joint", "divided"]) -> None:
    torch.manual_seed(0)
    model = PretrainModel(dataclasses.replace(CONFIG, attention=attention)).eval()
    index = split_mask(mask_of(CONFIG, 24), CONFIG.tokens)
    compiled = torch.compile(model.forward_split, backend="aot_eager", fullgraph=True)
    expected = model.forward_split(clip_of(CONFIG), *index)
    torch.testing.assert_close(compiled(clip_of(CONFIG), *index).prediction_BMK, expected.prediction_BMK)


@pytest.mark.medium
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_the_compiled_encoder_gives_the_same_features() -> None:
    torch.manual_seed(0)
    encoder, clip = Encoder(dataclasses.replace(CONFIG, depth=1)).eval(), clip_of(CONFIG)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(encoder)(clip), encoder(clip), atol=1e-5, rtol=1e-5)


def test_overfits_one_clip() -> None:
    torch.manual_seed(0)
    model, clip, mask = PretrainModel(CONFIG), clip_of(CONFIG, batch=1), mask_of(CONFIG, 16, batch=1)
    target = torch.randn(1, 16, CONFIG.cube_values)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = (model(clip, mask).prediction_BMK - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
