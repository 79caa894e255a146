"""One update of pretraining, ours next to transformers' VideoMAE and the original code; and with CLIP inside the step.

    python bench/train_step.py [--size small] [--batch 2] [--videomae FOLDER] [--clip local-dir:FOLDER] [--memory]

All variants see the same clips and masks and do forward, loss, backward and AdamW; data is on the device before the
clock starts. They take turns, so that a busy machine disturbs all alike; medians over rounds, and ratios to our step
of the same round. `--videomae` is a checkout of MCG-NJU/VideoMAE (its model, imported from there; our targets). With
`--mfu`, on a GPU: model FLOPs utilisation over sizes and mask ratios. Prints JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from schemas.config import Experiment
from train.masking.masks import make_mask
from train.models.cubes import cubes_from_clip, gather_tokens, normalise
from train.models.hf import to_hf_pretraining
from train.models.losses import pixel_target
from train.models.objective import Objective
from train.models.sizes import VideoMAEConfig, model_config
from train.models.videomae import PretrainModel, split_mask

DEMO_CLIP = "local-dir:" + str(Path(__file__).resolve().parent.parent / "pipeline" / "world" / "models" / "clip")
Step = Callable[[], None]


class Data(NamedTuple):
    clip_BTHWC: Tensor  # uint8
    masks: dict[str, Tensor]  # kind -> bool [B, N]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", help="tiny, small, base, large, huge")
    parser.add_argument("--batch", type=int, default=2, help="clips")
    parser.add_argument("--ratio", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--videomae", type=Path, help="a checkout of the original code")
    parser.add_argument("--clip", default=DEMO_CLIP, help="open_clip model for the step with CLIP inside")
    parser.add_argument("--memory", action="store_true", help="peak memory too, each variant in a process of its own")
    parser.add_argument("--mfu", action="store_true", help="utilisation of the GPU for ViT-B and ViT-L")
    parser.add_argument("--peak", type=float, default=989e12, help="bf16 FLOP/s of the card (H100 and H200: 989e12)")
    options = parser.parse_args()
    print(json.dumps(utilisation(options) if options.mfu else compare(options), indent=1))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    steps = variants(options)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():  # the first one allocates, and compiles kernels
        step()
    for _ in range(options.rounds):
        for name, step in steps.items():
            times[name].append(timed(step, options.device))
    ours = times["ours, tube"]
    result: dict[str, Any] = {
        "clips_per_second": {name: round(options.batch / statistics.median(each), 3) for name, each in times.items()},
        "time_of_ours": {  # greater than 1: slower than our step with tube masks
            name: round(statistics.median(a / b for a, b in zip(values, ours, strict=True)), 3)
            for name, values in times.items()
        },
        "step": f"ViT-{options.size}, {options.batch} clips, mask ratio {options.ratio}, {precision(options.device)}",
        "rounds": options.rounds, "machine": machine(options.device), "torch": torch.__version__,
    }  # fmt: skip
    if options.memory:
        result["peak_memory_gb"] = {name: peak_memory(options, name) for name in steps}
    return result


def variants(options: argparse.Namespace, only: str | None = None) -> dict[str, Step]:
    """What is compared, by name; `only` builds that one alone, for its memory."""
    toy = {"clip": {"frames": 16, "size": 64}, "model": {"size": "tiny", "patch": 8}}  # the original needs 16 frames
    full = {"model": {"size": options.size}}
    experiment = Experiment.model_validate(
        {"workspace": "unused", "mask": {"ratio": options.ratio}, **(toy if options.size == "tiny" else full)}
    )
    torch.manual_seed(0)
    config = model_config(experiment)
    data = draw(config, options)
    objective = Objective(experiment, None).to(options.device) if only not in ("transformers", "original") else None
    build: dict[str, Callable[[], Step]] = {
        "ours, tube": lambda: ours(objective, data, "tube"),
        "ours, text": lambda: ours(objective, data, "text"),
        "transformers": lambda: transformers_step(config, data),
    }
    if options.clip:
        build["ours, CLIP inside"] = lambda: clip_inside(objective, data, experiment, options)
    if options.device != "cpu":
        build["ours, compiled"] = lambda: compiled_step(experiment, data)
    if options.videomae:
        build["original"] = lambda: original_step(config, data, options)
    return {name: make() for name, make in build.items() if only in (None, name)}


def draw(config: VideoMAEConfig, options: argparse.Namespace) -> Data:
    rng = np.random.default_rng(0)
    shape = (options.batch, config.frames, config.image_size, config.image_size, 3)
    clip = torch.from_numpy(rng.integers(0, 256, shape, np.uint8)).to(options.device)

    def masks(kind: str) -> Tensor:
        made = [make_mask(kind, ratio=options.ratio, shape=config.grid, rng=rng,
                          scores=rng.normal(size=config.grid)).reshape(-1) for _ in range(options.batch)]  # fmt: skip
        return torch.from_numpy(np.stack(made))

    return Data(clip, {"tube": masks("tube"), "text": masks("top-k")})


def ours(objective: Any, data: Data, kind: str) -> Step:
    device = data.clip_BTHWC.device
    visible, hidden = (index.to(device) for index in split_mask(data.masks[kind], data.masks[kind].shape[1]))
    nothing = torch.zeros(len(data.clip_BTHWC), dtype=torch.int64, device=device)
    return update(objective, lambda: objective(data.clip_BTHWC, visible, hidden, None, nothing)["loss"])


def compiled_step(experiment: Experiment, data: Data) -> Step:
    objective = Objective(experiment, None).to(data.clip_BTHWC.device)
    objective.compile_model()
    return ours(objective, data, "tube")


def clip_inside(objective: Any, data: Data, experiment: Experiment, options: argparse.Namespace) -> Step:
    """The online way: score one frame of each tubelet of each clip against a caption, then mask and train."""
    from pipeline.guides.encoder import TextEncoder

    encoder = TextEncoder(experiment.text.model_copy(update={
        "model": options.clip, "pretrained": "", "patch": experiment.model.patch, "batch_size": 4096,
        "device": options.device, "precision": "float32" if options.device == "cpu" else "float16",
    }))  # fmt: skip
    text_CD = encoder.text_embeddings(["a red circle"])
    config, device = objective.model.config, data.clip_BTHWC.device
    frames = data.clip_BTHWC[:, :: config.tubelet].cpu().numpy()
    nothing = torch.zeros(len(frames), dtype=torch.int64, device=device)

    def loss() -> Tensor:
        scores = [encoder.score_frames(clip_THWC, text_CD)[0] for clip_THWC in frames]
        masks = [make_mask("top-k", ratio=experiment.mask.ratio, shape=config.grid, scores=each) for each in scores]
        mask_BN = torch.from_numpy(np.stack(masks).reshape(len(masks), -1))
        visible, hidden = (index.to(device) for index in split_mask(mask_BN, config.tokens))
        value: Tensor = objective(data.clip_BTHWC, visible, hidden, None, nothing)["loss"]
        return value

    return update(objective, loss)


def transformers_step(config: VideoMAEConfig, data: Data) -> Step:
    from transformers import VideoMAEConfig as TheirConfig
    from transformers import VideoMAEForPreTraining

    _, settings, _ = to_hf_pretraining(PretrainModel(config))
    model = VideoMAEForPreTraining(TheirConfig(**settings)).to(data.clip_BTHWC.device)
    pixels_BTCHW = normalise(data.clip_BTHWC).permute(0, 1, 4, 2, 3).contiguous()
    mask_BN = data.masks["tube"].to(pixels_BTCHW.device)
    return update(model, lambda: model(pixels_BTCHW, bool_masked_pos=mask_BN).loss)


def original_step(config: VideoMAEConfig, data: Data, options: argparse.Namespace) -> Step:
    sys.path.insert(0, str(options.videomae.resolve()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of timm, about the places the original imports from
        module = importlib.import_module("modeling_pretrain")
    model = module.PretrainVisionTransformer(
        img_size=config.image_size, patch_size=config.patch_size, encoder_embed_dim=config.dim,
        encoder_depth=config.depth, encoder_num_heads=config.heads, encoder_num_classes=0,
        decoder_num_classes=config.cube_values, decoder_embed_dim=config.decoder_dim,
        decoder_depth=config.decoder_depth, decoder_num_heads=config.decoder_heads, qkv_bias=True,
        tubelet_size=config.tubelet,
    ).to(data.clip_BTHWC.device)  # fmt: skip
    pixels_BCTHW = normalise(data.clip_BTHWC).permute(0, 4, 1, 2, 3).contiguous()
    mask_BN = data.masks["tube"].to(pixels_BCTHW.device)
    hidden = split_mask(data.masks["tube"], config.tokens)[1].to(pixels_BCTHW.device)

    def loss() -> Tensor:
        cubes = gather_tokens(cubes_from_clip(data.clip_BTHWC, config.patch_size, config.tubelet), hidden)
        return nn.functional.mse_loss(model(pixels_BCTHW, mask_BN).float(), pixel_target(cubes, norm=True))

    return update(model, loss)


def update(module: nn.Module, loss: Callable[[], Tensor]) -> Step:
    module.train()
    device = next(module.parameters()).device
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True if device.type == "cuda" else None)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            value = loss()
        value.backward()
        optimizer.step()

    return step


def timed(step: Step, device: str) -> float:
    """Seconds."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_memory(options: argparse.Namespace, name: str) -> float:
    """Gigabytes: of the GPU, or resident in a process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (options, name))


def _peak(options: argparse.Namespace, name: str) -> float:
    step = variants(options, only=name)[name]
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        step()
    if options.device != "cpu":
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    # Not getrusage: that also counts the process this one was forked from.
    status = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024 / 1e9, 2)


def utilisation(options: argparse.Namespace) -> dict[str, Any]:
    """Model FLOPs of the step over the card's peak, for ViT-B and ViT-L at three mask ratios."""
    result: dict[str, Any] = {"machine": machine(options.device), "peak": options.peak, "batch": options.batch}
    for size in ("base", "large"):
        for ratio in (0.6, 0.75, 0.9):
            chosen = argparse.Namespace(**{**vars(options), "size": size, "ratio": ratio})
            experiment = Experiment.model_validate(
                {"workspace": "unused", "model": {"size": size}, "mask": {"ratio": ratio}}
            )
            objective = Objective(experiment, None).to(options.device)
            objective.compile_model()
            data = draw(objective.model.config, chosen)
            step = ours(objective, data, "tube")
            for _ in range(3):
                step()
            seconds = statistics.median(timed(step, options.device) for _ in range(options.rounds * 4))
            hidden = int(data.masks["tube"][0].sum())
            flops = options.batch * model_flops(objective.model.config, hidden)
            result[f"ViT-{size[0].upper()} {ratio}"] = {
                "clips_per_second": round(options.batch / seconds, 1), "mfu": round(flops / seconds / options.peak, 3)
            }  # fmt: skip
            del objective, step
    return result


def model_flops(config: VideoMAEConfig, hidden: int) -> float:
    """Of forward and backward of one clip: matrix products only, two for each multiply-add, backward twice forward."""

    def blocks(tokens: int, depth: int, dim: int, mlp: int) -> float:
        return depth * (8 * tokens * dim**2 + 4 * tokens**2 * dim + 4 * tokens * dim * mlp)

    visible = config.tokens - hidden
    forward = 2 * visible * config.cube_values * config.dim + blocks(visible, config.depth, config.dim, config.mlp_dim)
    forward += 2 * visible * config.dim * config.decoder_dim
    forward += blocks(config.tokens, config.decoder_depth, config.decoder_dim, config.decoder_mlp_dim)
    forward += 2 * hidden * config.decoder_dim * config.cube_values
    return 3 * forward


def precision(device: str) -> str:
    return "float32" if device == "cpu" else "bfloat16"


def machine(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}"


if __name__ == "__main__":
    main()
