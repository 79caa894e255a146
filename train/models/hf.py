"""Weights to and from the folder format of transformers' VideoMAE classes, without transformers.

    save_hf("out", model)          # VideoMAEForPreTraining.from_pretrained("out") gives equal outputs
    model = load_hf("out")         # also a folder downloaded from the hub, e.g. MCG-NJU/videomae-base

The names written are those of files on disk (attention.attention.q_bias), which every transformers
version reads; since version 5 its modules call the same tensors query.bias, and both are read.
What the classes do differently from the VideoMAE release, and what is done about it:

- input is normalised with ImageNet statistics inside the loss, while the default image
  processor uses 0.5: preprocessor_config.json is always written;
- use_mean_pooling decides which norms exist: false for pretraining, true for the classifier;
- decoder.norm and fc_norm have eps 1e-5 in its code, whatever the configuration says: a model with
  another head_eps is refused unless the drift is accepted;
- heads and decoder depth have defaults that are wrong for most sizes: every size is written.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas.errors import UserError
from train.models.cubes import IMAGENET_MEAN, IMAGENET_STD
from train.models.sizes import VideoMAEConfig
from train.models.videomae import Classifier, Encoder, PretrainModel

HF_HEAD_EPS = 1e-5  # torch's default, which transformers leaves on decoder.norm and fc_norm
Exported = tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]

# Ours -> theirs, by beginning ...
PREFIXES = {
    "encoder.blocks.": "videomae.encoder.layer.",
    "decoder.blocks.": "decoder.decoder_layers.",
    "encoder.patch_embed.proj.": "videomae.embeddings.patch_embeddings.projection.",
    "encoder.norm.": "videomae.layernorm.",
    "head.": "classifier.",
}
# ... and inside a block. qkv.weight is split into three and handled apart.
SUFFIXES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.q_bias": "attention.attention.q_bias",
    "attn.v_bias": "attention.attention.v_bias",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
BASE_PARTS = ("embeddings.", "encoder.", "layernorm.")
QKV = "attention.attention.{}.weight"
_BLOCK = re.compile(r"(?P<block>.*\.(?:blocks|layer|decoder_layers)\.\d+\.)(?P<rest>.+)")


def to_hf_pretraining(model: PretrainModel, *, norm_pix: bool = True, accept_drift: bool = False) -> Exported:
    """State dict, config.json and preprocessor_config.json of a VideoMAEForPreTraining.

    norm_pix: whether the model was trained on normalised pixels (losses.pixel_target).
    Errors: ValueError for a head_eps that transformers cannot have, unless accept_drift.
    """
    config = _config_dict(model.config, "VideoMAEForPreTraining", accept_drift)
    config |= {"use_mean_pooling": False, "norm_pix_loss": norm_pix}
    return _to_hf(model.state_dict()), config, preprocessor_dict(model.config)


def to_hf_classifier(model: Classifier, *, labels: list[str] | None = None, accept_drift: bool = False) -> Exported:
    """The same of a VideoMAEForVideoClassification; labels are the class names in order."""
    names = labels or [f"LABEL_{i}" for i in range(model.classes)]
    if len(names) != model.classes:
        raise ValueError(f"{len(names)} class names for a head of {model.classes} classes")
    config = _config_dict(model.config, "VideoMAEForVideoClassification", accept_drift)
    config |= {
        "use_mean_pooling": True,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    return _to_hf(model.state_dict()), config, preprocessor_dict(model.config)


def to_hf_encoder(encoder: Encoder) -> Exported:
    """The same of a VideoMAEModel: the encoder alone, with its final norm."""
    config = _config_dict(encoder.config, "VideoMAEModel", accept_drift=True)  # it has no head
    state = _to_hf({f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()})
    state = {name.removeprefix("videomae."): tensor for name, tensor in state.items()}
    return state, config | {"use_mean_pooling": False}, preprocessor_dict(encoder.config)


def from_hf_pretraining(state: Mapping[str, Tensor], config: Mapping[str, Any], **changes: Any) -> PretrainModel:
    """A PretrainModel with transformers' weights; `changes` are fields of the config, say drop_path.

    Errors: ValueError for a configuration that this model does not have; RuntimeError (torch's,
    naming the keys) when weights are missing or left over.
    """
    model = PretrainModel(config_from_hf(config, **changes))
    model.load_state_dict(names_from_hf(state))
    return model


def from_hf_classifier(state: Mapping[str, Tensor], config: Mapping[str, Any], **changes: Any) -> Classifier:
    """A Classifier with transformers' weights; see from_hf_pretraining."""
    if not config.get("use_mean_pooling", True):
        raise ValueError(
            "this classifier reads its first token (use_mean_pooling false): only mean pooling is VideoMAE's"
        )
    model = Classifier(config_from_hf(config, **changes), classes=len(state["classifier.bias"]))
    model.load_state_dict(names_from_hf(state))
    return model


def save_hf(folder: str | Path, model: PretrainModel | Classifier | Encoder, **options: Any) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json; options: see to_hf_*.

    Errors: UserError for divided attention; ValueError, see to_hf_*.
    """
    if isinstance(model, PretrainModel):
        state, config, preprocessor = to_hf_pretraining(model, **options)
    elif isinstance(model, Classifier):
        state, config, preprocessor = to_hf_classifier(model, **options)
    else:
        state, config, preprocessor = to_hf_encoder(model, **options)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in (("preprocessor_config.json", preprocessor), ("config.json", config)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def load_hf(folder: str | Path, **changes: Any) -> PretrainModel | Classifier:
    """The model in a transformers folder, by the architecture its config.json names.

    Errors: FileNotFoundError without model.safetensors; ValueError for another architecture.
    """
    folder = Path(folder)
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise FileNotFoundError(
            f"no model.safetensors in {folder}: save the model again with "
            "save_pretrained(folder, safe_serialization=True, max_shard_size='50GB'); pickles are not read"
        )
    config = json.loads((folder / "config.json").read_text())
    readers: dict[str, Callable[..., PretrainModel | Classifier]] = {
        "VideoMAEForPreTraining": from_hf_pretraining,
        "VideoMAEForVideoClassification": from_hf_classifier,
    }
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in readers:
        raise ValueError(f"{folder} holds architecture {architecture!r}, expected one of {', '.join(readers)}")
    return readers[architecture](load_file(weights), config, **changes)


def preprocessor_dict(config: VideoMAEConfig) -> dict[str, Any]:
    """preprocessor_config.json: shorter side to the image size, centre crop, ImageNet statistics."""
    size = config.image_size
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "video_processor_type": "VideoMAEVideoProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def config_from_hf(config: Mapping[str, Any], **changes: Any) -> VideoMAEConfig:
    """Our configuration of a config.json, which need not spell out transformers' defaults."""
    fixed = {"hidden_act": "gelu", "qv_bias": True, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    for key, expected in fixed.items():
        if (found := config.get(key, expected)) != expected:
            raise ValueError(f"config has {key}={found!r}, this VideoMAE has {expected!r} only")

    def square(key: str, default: int) -> int:
        value = config.get(key, default)
        sides = set(value) if isinstance(value, (list, tuple)) else {value}
        if len(sides) != 1:
            raise ValueError(f"config has {key}={value!r}, expected a square")
        return int(sides.pop())

    dim, decoder_dim = config.get("hidden_size", 768), config.get("decoder_hidden_size", 384)
    fields = {
        "image_size": square("image_size", 224),
        "patch_size": square("patch_size", 16),
        "frames": config.get("num_frames", 16),
        "tubelet": config.get("tubelet_size", 2),
        "in_chans": config.get("num_channels", 3),
        "dim": dim,
        "depth": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "mlp_ratio": config.get("intermediate_size", 3072) / dim,
        "decoder_dim": decoder_dim,
        "decoder_depth": config.get("decoder_num_hidden_layers", 4),
        "decoder_heads": config.get("decoder_num_attention_heads", 6),
        "decoder_mlp_ratio": config.get("decoder_intermediate_size", 1536) / decoder_dim,
        "eps": config.get("layer_norm_eps", 1e-12),
        "head_eps": HF_HEAD_EPS,
    }
    return VideoMAEConfig(**{**fields, **changes})


def _config_dict(c: VideoMAEConfig, architecture: str, accept_drift: bool) -> dict[str, Any]:
    if c.attention != "joint":
        raise UserError(
            f"this model has {c.attention} attention, which transformers' VideoMAE has not: only models with "
            "model.attention = 'joint' can be exported; the run's own model.safetensors holds all weights"
        )
    if c.head_eps != HF_HEAD_EPS and not accept_drift:
        raise ValueError(
            f"this model has head_eps={c.head_eps:g}, transformers computes decoder.norm and fc_norm with "
            f"{HF_HEAD_EPS:g}, so its outputs would differ slightly: accept_drift=True exports it all the same"
        )
    return {
        "architectures": [architecture],
        "model_type": "videomae",
        "image_size": c.image_size,
        "patch_size": c.patch_size,
        "num_channels": c.in_chans,
        "num_frames": c.frames,
        "tubelet_size": c.tubelet,
        "hidden_size": c.dim,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.mlp_dim,
        "decoder_hidden_size": c.decoder_dim,
        "decoder_num_hidden_layers": c.decoder_depth,
        "decoder_num_attention_heads": c.decoder_heads,
        "decoder_intermediate_size": c.decoder_mlp_dim,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": c.eps,
        "qv_bias": True,
    }


def _rename(name: str, prefixes: Mapping[str, str], suffixes: Mapping[str, str]) -> str:
    """Replace the beginning of a name and, in a block, the module's name; others stay as they are."""
    if block := _BLOCK.fullmatch(name):
        for old, new in suffixes.items():
            if block["rest"] == old or block["rest"].startswith(old + "."):
                name = block["block"] + new + block["rest"].removeprefix(old)
                break
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _to_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("attn.qkv.weight"):
            block = _rename(name.removesuffix("attn.qkv.weight"), PREFIXES, {})
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[block + QKV.format(part)] = rows
        else:
            out[_rename(name, PREFIXES, SUFFIXES)] = tensor
    return out


def names_from_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for transformers'; also of a base VideoMAEModel, whose names lack the prefix videomae."""
    state = {f"videomae.{k}" if k.startswith(BASE_PARTS) else k: v for k, v in state.items()}
    prefixes = {new: old for old, new in PREFIXES.items()}
    suffixes = {new: old for old, new in SUFFIXES.items()}
    suffixes |= {"attention.attention.query.bias": "attn.q_bias", "attention.attention.value.bias": "attn.v_bias"}
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(QKV.format("query")):
            block = name.removesuffix(QKV.format("query"))
            parts = [state[block + QKV.format(part)] for part in ("query", "key", "value")]
            out[_rename(block, prefixes, {}) + "attn.qkv.weight"] = torch.cat(parts)
        elif not name.endswith((QKV.format("key"), QKV.format("value"))):
            out[_rename(name, prefixes, suffixes)] = tensor
    return out
