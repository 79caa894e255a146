"""From shards to clips: the stream is a pure function of (seed, epoch, video).

A sample is read through the index: one pread of its slice of the tar, which webdataset's own
iterators take apart, and only the frames of the clip are decoded. Nothing is remembered between
samples, so batches do not depend on the number of loader workers (train/sampling.py has the order).

Shape suffixes: B clips, T frames, H rows, W columns, C channels; N tokens of a clip (time, row,
column); D width of a text embedding; F scored frames of a video.
"""

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import decord
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from webdataset.tariterators import group_by_keys, tar_file_iterator

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.shards import ClipMeta, clip_meta, guide_meta, npy_array
from train.augment import clip_scores, multi_scale_crop, resize_crop
from train.masks import MASKS, make_mask
from train.model import split_mask
from train.sampling import Address, BatchPlan, digest64, generator, random_frames
from train.videos import Place, Videos

FOREIGN = "the shard is damaged or not the one its index was written for; delete its folder's stage.json and rebuild it"


class Sample(NamedTuple):
    """One augmented, masked clip."""

    clip_THWC: Tensor  # uint8
    mask_N: Tensor  # bool, true = hidden
    text_D: Tensor | None  # float32, the embedding of the caption drawn; None where the run needs none
    caption_id: int  # 64-bit hash of the caption drawn: equal for equal texts; 0 where there is none
    key: str
    label: int  # -1: none


class Batch(NamedTuple):
    """A micro-batch of one rank; a NamedTuple of tensors, which torch's loader can pin."""

    clip_BTHWC: Tensor  # uint8
    mask_BN: Tensor  # bool, true = hidden
    visible_index_BV: Tensor  # int64, the same mask as token numbers, ascending
    hidden_index_BM: Tensor  # int64
    text_BD: Tensor | None  # float32
    caption_id_B: Tensor  # int64
    keys: list[str]
    label_B: Tensor  # int64


class Failure(NamedTuple):
    """A UserError on its way out of a loader worker, which torch would else wrap in a traceback."""

    message: str


@dataclass(frozen=True)
class ClipDataset(Dataset["Sample | Failure"]):
    """Map-style: the address of an item is (epoch, row of the index)."""

    videos: Videos
    experiment: Experiment
    grid: tuple[int, int, int]  # tokens of the model along time, rows, columns

    def __getitem__(self, address: Address) -> Sample | Failure:
        try:
            return self.sample(*address)
        except UserError as error:
            return Failure(str(error))

    def sample(self, epoch: int, row: int) -> Sample:
        """Errors: UserError naming the shard and offset, and the video once known, of what cannot be read."""
        clip, mask, seed = self.experiment.clip, self.experiment.mask, self.experiment.pretrain.seed
        place = self.videos.clip_place(row)
        meta, mp4 = read_clip(place)
        draw = (seed, epoch, place.key)

        rng = generator(*draw, "frames")
        frames_T = random_frames(meta.frames, frames=clip.frames, stride=clip.stride, rng=rng)
        pixels_THWC = decode(mp4, frames_T, meta, str(place))
        height, width = pixels_THWC.shape[1:3]
        crop = multi_scale_crop(
            width, height, size=clip.size, scales=clip.scales, rng=generator(*draw, "crop"),
            flip=clip.flip and bool(generator(*draw, "flip").random() < 0.5),
        )  # fmt: skip

        needs_scores, needs_text = MASKS[mask.kind].needs_scores, self.experiment.objective.contrastive > 0
        scores, text_D, caption_id = None, None, 0
        if needs_scores or needs_text:
            place = self.videos.guide_place(row)
            members = read_members(place, ("json", *["scores.npy"] * needs_scores, *["text.npy"] * needs_text))
            guide = guide_meta(members["json"], str(place))
            if guide.frames != meta.frames:
                raise UserError(f"{place}: scores of {guide.frames} frames, but the clip has {meta.frames}: {FOREIGN}")
            maps = self.videos.maps(row)
            if len(guide.scale) != maps or len(guide.captions) not in (0, maps):
                raise UserError(f"{place}: {len(guide.scale)} score maps, the index says {maps}: {FOREIGN}")
            caption = int(generator(*draw, "caption").integers(maps))
            caption_id = digest64(guide.captions[caption]) if guide.captions else 0
            if needs_scores:
                stored_FHW = _array(members, "scores.npy", maps, place)[caption]
                scores = clip_scores(stored_FHW, frames_T, crop, frame_stride=guide.frame_stride, grid=self.grid)
            if needs_text:
                text_D = torch.from_numpy(_array(members, "text.npy", maps, place)[caption].astype(np.float32))

        rng = generator(*draw, "mask")
        hidden = make_mask(mask.kind, ratio=mask.ratio, shape=self.grid, scores=scores, rng=rng)
        return Sample(
            clip_THWC=resize_crop(pixels_THWC, crop, clip.size),
            mask_N=torch.from_numpy(hidden.reshape(-1)),
            text_D=text_D,
            caption_id=caption_id,
            key=place.key,
            label=-1 if meta.label is None else meta.label,
        )


def read_members(place: Place, fields: Sequence[str]) -> dict[str, bytes]:
    """The members of one sample by extension, at least `fields`, read with one pread of the tar.

    Errors: UserError naming the shard and the offset when it is missing or cut short, when the slice
    is not that of a tar, or when it holds another key than the index says.
    """
    try:
        descriptor = os.open(place.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise UserError(f"cannot open the shard {place.path}: {error.strerror}") from error
    try:
        data = os.pread(descriptor, place.length, place.offset)
    finally:
        os.close(descriptor)
    if len(data) < place.length:
        raise UserError(f"{place}: the shard ends {place.length - len(data)} bytes early: {FOREIGN}")
    try:
        members = ({**member, "__url__": str(place.path)} for member in tar_file_iterator(io.BytesIO(data)))
        samples = list(group_by_keys(members))
    except (tarfile.TarError, ValueError) as error:
        raise UserError(f"{place}: not a sample of a tar ({error}): {FOREIGN}") from error
    keys = [sample["__key__"] for sample in samples]
    if keys != [place.key]:
        raise UserError(f"{place}: holds {keys or 'nothing'}, the index says {place.key!r}: {FOREIGN}")
    missing = [field for field in fields if field not in samples[0]]
    if missing:
        raise UserError(f"{place}: sample {place.key} lacks {', '.join(missing)}: {FOREIGN}")
    return {field: data for field, data in samples[0].items() if isinstance(data, bytes)}


def _array(members: dict[str, bytes], field: str, maps: int, place: Place) -> NDArray[Any]:
    """An array of a guide sample, one entry a map. Errors: UserError when it is not that."""
    try:
        array = npy_array(members[field])
    except (ValueError, EOFError) as error:
        raise UserError(f"{place}: {field} of {place.key} is not an array ({error}): {FOREIGN}") from error
    if not array.ndim or len(array) != maps:
        raise UserError(
            f"{place}: {field} of {place.key} has shape {array.shape}, the index says {maps} maps: {FOREIGN}"
        )
    return array


def read_clip(place: Place) -> tuple[ClipMeta, bytes]:
    """The description and the encoded video of a clip sample. Errors: as read_members."""
    members = read_members(place, ("json", "mp4"))
    return clip_meta(members["json"], str(place)), members["mp4"]


def decode(mp4: bytes, frames_T: NDArray[np.int64], meta: ClipMeta, where: str) -> NDArray[np.uint8]:
    """The frames of the given numbers, RGB, uint8 [T, H, W, 3]; each is decoded once, however often named.

    The reader lives for this call only: decord's grow without bound when kept. Shards are our own and
    whole, so a video that does not decode is an error, not a sample to skip.
    Errors: UserError naming the video.
    """
    unique, place_T = np.unique(frames_T, return_inverse=True)
    try:
        reader = decord.VideoReader(io.BytesIO(mp4), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != meta.frames:
            raise UserError(f"{where}: video {meta.video_id!r} has {len(reader)} frames, not {meta.frames}: {FOREIGN}")
        pixels: NDArray[np.uint8] = reader.get_batch(unique.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(f"{where}: video {meta.video_id!r} cannot be decoded ({reason}): {FOREIGN}") from error
    return pixels if np.array_equal(unique, frames_T) else pixels[place_T]


def collate(samples: list[Sample | Failure]) -> Batch | Failure:
    """Samples as one batch, or the first failure among them. Masks are indexed here, in the worker."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, Failure):
            return sample
        good.append(sample)
    mask_BN = torch.stack([sample.mask_N for sample in good])
    visible_index_BV, hidden_index_BM = split_mask(mask_BN, mask_BN.shape[1])
    texts = [sample.text_D for sample in good if sample.text_D is not None]
    return Batch(
        clip_BTHWC=torch.stack([sample.clip_THWC for sample in good]),
        mask_BN=mask_BN,
        visible_index_BV=visible_index_BV,
        hidden_index_BM=hidden_index_BM,
        text_BD=torch.stack(texts) if texts else None,
        caption_id_B=torch.tensor([sample.caption_id for sample in good], dtype=torch.int64),
        keys=[sample.key for sample in good],
        label_B=torch.tensor([sample.label for sample in good], dtype=torch.int64),
    )


def stream(dataset: ClipDataset, plan: BatchPlan, *, workers: int, pin: bool) -> Iterator[Batch]:
    """The micro-batches of a plan, in order, for any number of workers. Errors: UserError, see ClipDataset."""
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_sampler=plan, collate_fn=collate, num_workers=workers, pin_memory=pin,
        generator=torch.Generator(),  # of its workers' seeds, which nothing uses: the global one stays untouched
    )  # fmt: skip
    for batch in loader:
        if isinstance(batch, Failure):
            raise UserError(batch.message)
        yield batch


def text_width(videos: Videos) -> int:
    """D of the stored text embeddings. Errors: UserError when the guide has none."""
    place = videos.guide_place(0)
    members = read_members(place, ("json",))
    if "text.npy" not in members:
        raise UserError(f"{place}: the guide holds no text embeddings, which objective.contrastive needs")
    return int(npy_array(members["text.npy"]).shape[-1])
