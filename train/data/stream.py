"""From shards to clips: the stream is a pure function of (seed, epoch, video, repeat).

A sample is read through the index (train/data/reading.py) and only the frames of the clip are decoded. Nothing
is remembered between samples, so batches do not depend on the number of loader workers
(train/data/sampling.py has the order).

Shape suffixes: B clips, T frames, H rows, W columns, C channels; N tokens of a clip (time, row,
column), V visible ones, M predicted ones; D width of a text embedding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.registry import MASKS
from schemas.shards import ClipMeta, npy_array
from train.data.augment import Crop, multi_scale_crop, resize_crop
from train.data.loading import clip_bytes, loaded
from train.data.reading import Guidance, decode, read_clip, read_guidance, read_members
from train.data.sampling import Address, BatchPlan, digest64, generator, random_frames
from train.data.videos import Videos
from train.masking.decoder_cells import running_cells
from train.masking.masks import Bools, make_mask, share_at
from train.models import arvideo
from train.models.videomae import split_mask

Draw = tuple[int, int, str, int]  # (seed, epoch, key, repeat): what a clip is a function of


class Sample(NamedTuple):
    """One augmented, masked clip."""

    clip_THWC: Tensor  # uint8
    mask_N: Tensor  # bool, true = hidden
    predicted_N: Tensor | None  # bool, true = the decoder predicts it; None: what is hidden
    text_D: Tensor | None  # float32, the embedding of the caption drawn; None where the run needs none
    caption_id: int  # 64-bit hash of that caption: equal for equal texts; 0 where the run needs none
    key: str
    label: int  # -1: none
    order: arvideo.Drawn | None = None  # of ARVideo: what is seen and predicted, in the order of its clusters


class Batch(NamedTuple):
    """A micro-batch of one rank; a NamedTuple of tensors, which torch's loader can pin."""

    clip_BTHWC: Tensor  # uint8; the repeats of a video follow one another
    mask_BN: Tensor  # bool, true = hidden
    visible_index_BV: Tensor  # int64, the same mask as token numbers, ascending; in ARVideo's order
    predicted_index_BM: (
        Tensor  # int64, what the decoder predicts: the hidden tokens, or a part of all (mask.decoder_ratio)
    )
    weight_BM: Tensor | None  # float32, of each predicted token in the loss: 1 hidden, 0 visible; None: all count
    text_BD: Tensor | None  # float32
    caption_id_B: Tensor  # int64
    keys: list[str]
    label_B: Tensor  # int64


class Failure(NamedTuple):
    """A UserError on its way out of a loader worker, which torch would else wrap in a traceback."""

    message: str


@dataclass(frozen=True)
class ClipDataset(Dataset["list[Sample] | Failure"]):
    """Map-style: the address of an item, the clips of one video, is (epoch, row of the index)."""

    videos: Videos  # with the sidecars that the experiment names
    experiment: Experiment
    grid: tuple[int, int, int]  # tokens of the model along time, rows, columns

    def __getitem__(self, address: Address) -> list[Sample] | Failure:
        try:
            return self.samples(*address)
        except UserError as error:
            return Failure(str(error))

    def samples(self, epoch: int, row: int) -> list[Sample]:
        """One window of a video, decoded once, cropped, flipped and masked `clip.repeats` times.

        The caption is drawn once, too: of clips in one batch that share it, the contrastive loss can know
        (objective.false_negatives).
        Errors: UserError naming the shard and offset, and the video once known, of what cannot be read.
        """
        clip, seed = self.experiment.clip, self.experiment.pretrain.seed
        place = self.videos.clip_place(row)
        meta, mp4 = read_clip(place)
        draw = (seed, epoch, place.key)
        frames_T = self.frames(meta, draw)
        pixels_THWC = decode(mp4, frames_T, meta, str(place), self.experiment.pretrain.decoder)

        guide, text = self._guidance(row, meta)
        # By one generator: where scores and text are of one sidecar, both are those of the same caption.
        entry, caption = (0 if found is None else self.entry(found, draw) for found in (guide, text))
        text_D, caption_id = None, 0
        if text is not None:
            text_D = torch.from_numpy(text.texts()[caption])
            caption_id = digest64(text.meta.captions[caption]) if text.meta.captions else 0

        samples = []
        for repeat in range(clip.repeats):
            crop = self.crop(pixels_THWC.shape[2], pixels_THWC.shape[1], (*draw, repeat))
            ratio, predicted, order = self.experiment.mask.decoder_ratio, None, None
            if self.autoregressive:
                order = arvideo.draw(self.grid, self.experiment.arvideo, generator(*draw, repeat, "clusters"))
                hidden_THW = order.unseen(self.grid)
            else:
                hidden_THW = self.hidden(guide, entry, frames_T, crop, epoch, (*draw, repeat))
                if ratio:
                    predicted = running_cells(self.grid, ratio, generator(*draw, repeat, "cells"))
            samples.append(
                Sample(
                    clip_THWC=resize_crop(pixels_THWC, crop, clip.size),
                    mask_N=torch.from_numpy(hidden_THW.reshape(-1)),
                    predicted_N=None if predicted is None else torch.from_numpy(predicted.reshape(-1)),
                    text_D=text_D,
                    caption_id=caption_id,
                    key=place.key,
                    label=-1 if meta.label is None else meta.label,
                    order=order,
                )
            )
        return samples

    @property
    def autoregressive(self) -> bool:
        """Whether clusters in an order take the place of masks."""
        return self.experiment.objective.kind == "arvideo"

    def _guidance(self, row: int, meta: ClipMeta) -> tuple[Guidance | None, Guidance | None]:
        """What the mask and what the contrastive loss reads; one read where it is the same sidecar."""
        ranked = MASKS[self.experiment.mask.kind].needs != "shape" and not self.autoregressive
        guide = self.experiment.guide_name if ranked else None
        text = self.experiment.text_name
        fields: dict[str, list[str]] = {}
        for name, field in ((guide, "scores.npy"), (text, "text.npy")):
            if name is not None:
                fields.setdefault(name, []).append(field)
        found = {name: read_guidance(self.videos.sidecar(name), row, meta, fields[name]) for name in fields}
        return found.get(guide or ""), found.get(text or "")

    # The draws of a clip, each by itself: the inspector shows them without the rest.

    def frames(self, meta: ClipMeta, draw: tuple[int, int, str]) -> NDArray[np.int64]:
        """The frame numbers of a clip, int64 [T]; draw: (seed, epoch, key)."""
        clip, rng = self.experiment.clip, generator(*draw, "frames")
        return random_frames(meta.frames, frames=clip.frames, stride=clip.stride, rng=rng)

    def entry(self, found: Guidance, draw: tuple[int, int, str]) -> int:
        """Which of a sidecar's captions or maps a clip takes; draw: (seed, epoch, key)."""
        return int(generator(*draw, "caption").integers(found.entries))

    def crop(self, width: int, height: int, draw: Draw) -> Crop:
        """The crop of a frame of so many pixels."""
        clip = self.experiment.clip
        return multi_scale_crop(
            width, height, size=clip.size, scales=clip.scales, rng=generator(*draw, "crop"),
            flip=clip.flip and bool(generator(*draw, "flip").random() < 0.5),
        )  # fmt: skip

    def hidden(self, guide: Guidance | None, entry: int, frames_T: NDArray[np.int64], crop: Crop, epoch: int,
               draw: Draw) -> Bools:  # fmt: skip
        """What the mask hides, bool [T', h, w]."""
        mask, scores, flow = self.experiment.mask, None, None
        if guide is not None and MASKS[mask.kind].needs == "scores":
            scores = guide.scores(entry, frames_T, crop, self.grid)
        elif guide is not None:
            flow = guide.flow(frames_T, crop, self.grid)
        share = share_at(epoch, self.experiment.optim.epochs, mask.text_share)
        return make_mask(mask.kind, ratio=mask.ratio, shape=self.grid, scores=scores, flow=flow, share=share,
                         rng=generator(*draw, "mask"))  # fmt: skip


def collate(videos: list[list[Sample] | Failure]) -> Batch | Failure:
    """The clips of some videos as one batch, or the first failure among them. Masks are indexed here, in the worker."""
    good: list[Sample] = []
    for samples in videos:
        if isinstance(samples, Failure):
            return samples
        good += samples
    mask_BN = torch.stack([sample.mask_N for sample in good])
    visible_index_BV, predicted_index_BM = split_mask(mask_BN, mask_BN.shape[1])
    weight_BM = None
    predicted = [sample.predicted_N for sample in good if sample.predicted_N is not None]
    if predicted:
        _, predicted_index_BM = split_mask(torch.stack(predicted), mask_BN.shape[1])
        weight_BM = mask_BN.gather(1, predicted_index_BM).float()
    orders = [sample.order for sample in good if sample.order is not None]
    if orders:
        visible_index_BV = torch.from_numpy(np.stack([order.visible_index_V for order in orders]))
        predicted_index_BM = torch.from_numpy(np.stack([order.target_index_M for order in orders]))
    texts = [sample.text_D for sample in good if sample.text_D is not None]
    return Batch(
        clip_BTHWC=torch.stack([sample.clip_THWC for sample in good]),
        mask_BN=mask_BN,
        visible_index_BV=visible_index_BV,
        predicted_index_BM=predicted_index_BM,
        weight_BM=weight_BM,
        text_BD=torch.stack(texts) if texts else None,
        caption_id_B=torch.tensor([sample.caption_id for sample in good], dtype=torch.int64),
        keys=[sample.key for sample in good],
        label_B=torch.tensor([sample.label for sample in good], dtype=torch.int64),
    )


def stream(dataset: ClipDataset, plan: BatchPlan, *, workers: int, pin: bool) -> Iterator[Batch]:
    """The micro-batches of a plan, in order, for any number of workers. Errors: UserError, see ClipDataset."""
    size = plan.clips_per_rank * clip_bytes(dataset.experiment.clip)
    for batch in loaded(dataset, plan, collate=collate, workers=workers, pin=pin, batch_bytes=size):
        if isinstance(batch, Failure):
            raise UserError(batch.message)
        yield batch


def text_width(videos: Videos, name: str) -> int:
    """D of the text embeddings of a sidecar. Errors: UserError when it has none."""
    place = videos.sidecar(name).place(0)
    members = read_members(place, ("json",))
    if "text.npy" not in members:
        raise UserError(f"{place}: the sidecar holds no text embeddings, which objective.contrastive needs")
    return int(npy_array(members["text.npy"]).shape[-1])
