"""Anyone's encoder: from a run of ours, from transformers' VideoMAE, or from a file in VideoMAE's own format.

    weights = read_weights(Path("work/ssv2/runs/tgm"))     # or a transformers folder, or checkpoint.pth
    load_into(classifier.encoder, weights)
    encoder = load_encoder(Path("checkpoint.pth"), config)  # for features

Nothing is unpickled but tensors, and transformers is not imported. Positions are stored nowhere: they
are a function of the token's number (train/models/attention.py), so a model of more or fewer frames takes the
same weights, while another picture size would give every token another position and is refused.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from schemas.errors import UserError
from schemas.foreign_text import parsed_json, shown
from schemas.toml import load_experiment
from train.models.hf import config_from_hf, names_from_hf
from train.models.sizes import PRESETS, VideoMAEConfig, model_config
from train.models.videomae import Encoder
from train.models.weight_files import weight_files, weights_digest

ENCODER = "encoder."
RELEASE_EPS = 1e-6  # of every layer norm in VideoMAE's release
HEAD_WIDTH = 64  # of an attention head in VideoMAE's S, B and L; H and giant are known by their width
OTHER_PARTS = ("decoder.", "encoder_to_decoder.", "mask_token", "query", "fc_norm.", "head.")

SIZES = ("in_chans", "dim", "depth", "heads", "mlp_dim")  # what model.size says of an encoder


class Weights(NamedTuple):
    config: VideoMAEConfig  # of the model they come from
    encoder: dict[str, Tensor]  # Encoder's own names, float32; no norm.* where it was fine-tuned
    source: str  # what they were read from, for messages and records
    sha256: str  # of the file, see sources.weights_digest
    state: dict[str, Tensor]  # all that is known: the encoder as encoder.*, the decoder or the classifier's head
    ignored: tuple[str, ...]  # names in the file that no part of the model has


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """A safetensors file. Errors: UserError when it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights {path}: {error}") from error


def read_weights(path: Path, like: VideoMAEConfig | None = None) -> Weights:
    """Reads an encoder, whoever trained it; on the CPU.

    like: the model it is meant for. A file in VideoMAE's own format says nothing of frames, picture
    size and heads: they are taken from `like`, else 16 frames of 224 x 224 and the release's heads.
    Errors: UserError for something else than weights, or an encoder that VideoMAE's is not.
    """
    if path.is_dir() and (path / "config.toml").is_file():
        config, state, kind = model_config(load_experiment(path / "config.toml")), _tensors(path), "a run of tgmae"
    elif path.is_dir() and (path / "config.json").is_file():
        try:
            config = config_from_hf(parsed_json((path / "config.json").read_bytes()))
        except ValueError as error:
            raise UserError(f"{path / 'config.json'}: {error}") from error
        state, kind = names_from_hf(_tensors(path)), "transformers' format"
    else:
        state, kind = _release_names(_tensors(path)), "VideoMAE's format"
        config = _config_of_shapes(state, like, path)
    known = {name: tensor.float() for name, tensor in state.items() if name.startswith((ENCODER, *OTHER_PARTS))}
    encoder = {name.removeprefix(ENCODER): tensor for name, tensor in known.items() if name.startswith(ENCODER)}
    _check_complete(encoder, config, path)
    ignored = tuple(sorted({*state} - {*known}))
    return Weights(config, encoder, f"{path} ({kind})", weights_digest(path), known, ignored)


def check_fits(weights: Weights, config: VideoMAEConfig) -> None:
    """Errors: UserError naming the config's keys to change, where the weights are not for such an encoder.

    Not compared: the decoder, epsilons, stochastic depth and the number of frames (see above). Joint
    weights fit a divided encoder: its temporal attention starts at zero, as TimeSformer's does.
    """
    found, wrong = weights.config, []
    if any(getattr(found, name) != getattr(config, name) for name in SIZES):
        described = ", ".join(f"{name} {getattr(found, name)}" for name in SIZES)
        wrong.append(f"the encoder has {described}: {_size_hint(found)}")
    for name, key in (("patch_size", "model.patch"), ("tubelet", "model.tubelet"), ("image_size", "clip.size")):
        if getattr(found, name) != getattr(config, name):
            wrong.append(f"{name} is {getattr(found, name)}, not {getattr(config, name)}: set {key} = "
                         f"{getattr(found, name)}")  # fmt: skip
    if found.attention == "divided" and config.attention == "joint":
        wrong.append("attention is divided, not joint: set model.attention = 'divided'")
    if wrong:
        raise UserError(f"the weights of {weights.source} do not fit the experiment: {'; '.join(wrong)}")


def load_into(encoder: Encoder, weights: Weights) -> None:
    """Puts the weights into an encoder with a final norm or without; a norm the weights lack stays as it is.

    Errors: UserError, see check_fits.
    """
    check_fits(weights, encoder.config)
    wanted = encoder.state_dict()
    lacking = {name for name in wanted if name not in weights.encoder}
    assert all(name.startswith("norm.") or ".temporal_" in name for name in lacking), lacking
    encoder.load_state_dict({name: weights.encoder.get(name, tensor) for name, tensor in wanted.items()})


def load_encoder(path: Path, config: VideoMAEConfig) -> Encoder:
    """The encoder at `path` for features: with its final norm, or without where it was fine-tuned.

    Errors: UserError, see read_weights and check_fits.
    """
    weights = read_weights(path, config)
    encoder = Encoder(config, final_norm="norm.weight" in weights.encoder)
    load_into(encoder, weights)
    return encoder


def start_from(model: nn.Module, weights: Weights) -> str:
    """Puts the weights into a model to pretrain: all of it where the decoder is the same one, else `model.encoder`.

    Returns what was taken, in words. Errors: UserError, see check_fits.
    """
    encoder = model.encoder
    assert isinstance(encoder, Encoder)
    load_into(encoder, weights)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(ENCODER)}
    rest = {name: tensor for name, tensor in weights.state.items() if not name.startswith(ENCODER)}
    same = {name: tensor.shape for name, tensor in own.items()} == {name: tensor.shape for name, tensor in rest.items()}
    if same:
        model.load_state_dict(rest, strict=False)
    taken = "encoder and decoder" if same else "the encoder; the decoder starts from random weights"
    extra = f"; not used: {', '.join(weights.ignored)}" if weights.ignored else ""
    return f"{taken} of {weights.source}, sha256 {weights.sha256[:16]}{extra}"


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a folder or a file by name. Errors: UserError."""
    state: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            state |= load_weights(file) if file.suffix == ".safetensors" else _unpickled(file)
        except (OSError, RuntimeError, EOFError) as error:
            raise UserError(f"cannot read the weights {file}: {error}") from error
    return state


def _unpickled(file: Path) -> dict[str, Tensor]:
    """Tensors of a torch.save file, under 'model' or 'module' as VideoMAE writes them, or bare."""
    with open(file, "rb") as opened:
        head = opened.read(60)
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        begins = shown(head.decode("latin-1"))
        raise UserError(
            f"{file} is no file of torch.save: it begins with {begins!r}. If that is a web page or a pointer of Git "
            "LFS, the download went wrong: download the file itself"
        )
    # VideoMAE stores its command line too: argparse.Namespace is a plain bag of values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError):
            raise
        except Exception as error:  # of pickle, whose errors torch passes on: more than tensors is in there
            raise UserError(
                f"{file} holds more than tensors, and loading that can run code ({str(error).splitlines()[0]}). If "
                "you trust it, save its tensors alone: "
                "torch.save({'model': torch.load(FILE, weights_only=False)['model']}, OTHER)"
            ) from error
    for key in ("model", "module", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise UserError(
            f"{file} holds no state dict: expected names and tensors, bare or under 'model', 'module' or 'state_dict'"
        )
    return tensors


def _release_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for the release's: pretraining's are ours; its fine-tuning model has the encoder's parts bare."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for wrapper in ("module.", "backbone."):
            name = name.removeprefix(wrapper)
        bare = name.startswith(("patch_embed.", "blocks.", "norm.", "cls_token", "pos_embed"))
        out[ENCODER + name if bare else name] = tensor
    return out


def _config_of_shapes(state: Mapping[str, Tensor], like: VideoMAEConfig | None, path: Path) -> VideoMAEConfig:
    """Sizes from the shapes; what shapes do not say, see read_weights."""
    try:
        dim, channels, tubelet, patch, _ = state["encoder.patch_embed.proj.weight"].shape
        mlp = len(state["encoder.blocks.0.mlp.fc1.weight"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path} is not a VideoMAE encoder: {error} not found among its {len(state)} names, "
            f"such as {', '.join(sorted(state)[:3])}"
        ) from error
    depth = _depth(state, "encoder.blocks.")
    known = [VideoMAEConfig.preset(name) for name in PRESETS]
    heads = next((c.heads for c in known if (c.dim, c.depth) == (dim, depth)), max(dim // HEAD_WIDTH, 1))
    clip: dict[str, Any] = {"image_size": patch * (224 // patch), "frames": 16}
    if like is not None:
        heads = like.heads if like.dim == dim else heads
        fits = like.image_size % patch == 0 and like.frames % tubelet == 0
        clip = {"image_size": like.image_size, "frames": like.frames} if fits else clip
    decoder: dict[str, Any] = {}
    if "decoder.blocks.0.mlp.fc1.weight" in state:
        width = state["decoder.head.weight"].shape[1]
        decoder = {
            "decoder_dim": width, "decoder_depth": _depth(state, "decoder.blocks."),
            "decoder_heads": next((c.decoder_heads for c in known if c.decoder_dim == width),
                                  max(width // HEAD_WIDTH, 1)),
            "decoder_mlp_ratio": len(state["decoder.blocks.0.mlp.fc1.weight"]) / width,
        }  # fmt: skip
    try:
        return VideoMAEConfig(
            patch_size=patch, tubelet=tubelet, in_chans=channels, dim=dim, depth=depth, heads=heads,
            mlp_ratio=mlp / dim, eps=RELEASE_EPS, head_eps=RELEASE_EPS, **clip, **decoder,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{path}: {error}; set model.size to the model it was made with") from error


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix))


def _check_complete(encoder: Mapping[str, Tensor], config: VideoMAEConfig, path: Path) -> None:
    """Refuses an encoder with parts missing, of other shapes or that ours has not."""
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in Encoder(config).state_dict().items()}
    found = {name: tensor.shape for name, tensor in encoder.items()}
    if "norm.weight" not in found:
        expected = {name: shape for name, shape in expected.items() if not name.startswith("norm.")}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not a part of VideoMAE's encoder" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items() if name in found and found[name] != shape
    ]  # fmt: skip
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{path} is not a VideoMAE encoder: {', '.join(problems[:5])}{more}")


def _size_hint(config: VideoMAEConfig) -> str:
    for name in PRESETS:
        if all(getattr(VideoMAEConfig.preset(name), size) == getattr(config, size) for size in SIZES):
            return f"set model.size = {name!r}"
    return f"none of model.size = {', '.join(PRESETS)} is that"
