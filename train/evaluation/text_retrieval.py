"""Captions found by videos and videos by captions, for encoders whose pretraining had the contrastive loss.

The video's embedding is that of pretraining: the head (runs/<name>/head.safetensors) on the mean token, here of all
tokens and of all views. A text that several videos share, or one video has twice, is one text: it stands in the gallery
once and asks once, and every video that has it is a hit. Videos without captions neither ask nor are found.

Shape suffixes: V videos with captions, T different texts, P pairs of a video and a text of it, D width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.errors import UserError
from schemas.shards import guide_meta
from train.data.reading import Guidance, read_members
from train.data.videos import Sidecar, Videos
from train.evaluation.frozen_encoder import FrozenEncoder
from train.evaluation.neighbours import KS, nearest, recalls
from train.models.losses import PredictionHead
from train.models.weight_files import HEAD
from train.models.weights import load_weights

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class TextRecalls(NamedTuple):
    metrics: dict[str, float]  # video_to_text_r@k, text_to_video_r@k
    counts: dict[str, int]
    warnings: list[str]


@dataclass(frozen=True)
class Captions:
    text_TD: Floats
    video_P: Ints  # rows
    text_P: Ints  # rows of text_TD; a pair is there once


def text_recalls(frozen: FrozenEncoder, videos: Videos, features_SD: Floats, name: str) -> TextRecalls:
    """R@k both ways. videos: to be judged by, with the sidecar `name`; features_SD: of each, as pretraining pools them.

    Errors: UserError when no video has a caption, or the texts' embeddings are not those that the head was made for.
    """
    captions = read_captions(videos.sidecar(name), len(videos))
    with_text, video_P = np.unique(captions.video_P, return_inverse=True)
    head = load_head(frozen.source / HEAD).to(frozen.device)
    with torch.inference_mode():
        video_VD = head(torch.from_numpy(features_SD[with_text]).to(frozen.device)).cpu().numpy()
    if video_VD.shape[1] != captions.text_TD.shape[1]:
        raise UserError(
            f"the head of {frozen.source} gives {video_VD.shape[1]} numbers, the texts of guides/{name} have "
            f"{captions.text_TD.shape[1]}: make that guide with the text encoder (text.model) that the run was "
            "trained with, or set retrieve.text = 'never'"
        )
    options, texts = frozen.options, len(captions.text_TD)
    text_VN = nearest(video_VD, captions.text_TD, max(KS), chunk=options.chunk, device=frozen.device).index_QN
    video_TN = nearest(captions.text_TD, video_VD, max(KS), chunk=options.chunk, device=frozen.device).index_QN
    own_P = video_P * texts + captions.text_P  # a number of each pair
    hit_VN = np.isin(np.arange(len(video_VD))[:, None] * texts + text_VN, own_P) & (text_VN >= 0)
    hit_TN = np.isin(video_TN * texts + np.arange(texts)[:, None], own_P) & (video_TN >= 0)
    metrics = recalls(hit_VN, prefix="video_to_text_") | recalls(hit_TN, prefix="text_to_video_")
    owners_T = np.bincount(captions.text_P, minlength=texts)  # videos of each text
    metrics |= {f"text_to_video_r@{k}_chance": chance(owners_T, len(video_VD), k) for k in KS}
    silent = len(videos) - len(video_VD)
    warnings = []
    if silent:
        warnings.append(f"{silent} test videos have no caption in guides/{name} and are left out of text retrieval")
    return TextRecalls(metrics, {"texts": texts, "without_captions": silent}, warnings)


def chance(owners_T: Ints, videos: int, k: int) -> float:
    """Mean over texts of the probability that one of k videos, drawn without replacement, has the text."""
    drawn = np.arange(min(k, videos))
    missed = np.clip(videos - owners_T[:, None] - drawn, 0, None) / (videos - drawn)
    return float(1 - missed.prod(axis=1).mean())


def load_head(path: Path) -> PredictionHead:
    """The contrastive head of a run, for evaluation: its batch norm takes the running statistics."""
    state = {
        name.removeprefix("head."): tensor for name, tensor in load_weights(path).items() if name.startswith("head.")
    }
    hidden, dim = state["0.weight"].shape
    head = PredictionHead(dim, len(state["3.weight"]), hidden)
    head.load_state_dict(state)
    return head.eval()


def read_captions(sidecar: Sidecar, videos: int) -> Captions:
    """The texts of the first `videos` rows. Errors: UserError when there are none, or a sample cannot be read."""
    numbers: dict[str, int] = {}
    embeddings: list[Floats] = []
    pairs: set[tuple[int, int]] = set()
    for row in range(videos):
        if not sidecar.entries(row):
            continue
        place = sidecar.place(row)
        members = read_members(place, ("json", "text.npy"))
        meta = guide_meta(members["json"], str(place))
        text_CD = Guidance(place, meta, len(meta.captions), members).array("text.npy").astype(np.float32)
        for text, text_D in zip(meta.captions, text_CD, strict=True):
            if text not in numbers:
                numbers[text] = len(embeddings)
                embeddings.append(text_D)
            pairs.add((row, numbers[text]))
    if not pairs:
        raise UserError(f"no test video has a caption in {sidecar.folder}: see its failures.parquet")
    video_P, text_P = np.asarray(sorted(pairs), np.int64).T
    return Captions(np.stack(embeddings), video_P, text_P)
