"""What pretrain, finetune, probe and retrieve read. A field's comment gives its unit or source."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from schemas.config.section import NotNegative, Positive, Rate, Section, Share, Unit
from schemas.registry import MASKS


def check_schedule(warmup_epochs: float, epochs: int) -> None:
    if warmup_epochs > epochs:
        raise ValueError(
            f"warmup_epochs {warmup_epochs:g} is more than epochs {epochs}: set warmup_epochs, too (0 for none)"
        )


class Clip(Section):
    """What the model sees, and the augmentation of pretraining (section 4.2; VideoMAE's dataset code)."""

    frames: Positive = 16  # of a clip
    stride: Positive = 4  # frames of the video between two of the clip: 4 for K400, 2 for SSv2
    size: Positive = 224  # pixels
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)  # multi-scale crop, shares of the short side
    flip: bool = True  # horizontally, half of the time; not for SSv2
    repeats: Positive = 1  # augmented, masked clips of a decoded video, together in a batch; batch_size counts all


class Mask(Section):
    """Which tokens are hidden (docs/masks.md)."""

    # top-k, bottom-k and motion-vectors rank the guide's scores, optical-flow carries a random map along its flow
    kind: Annotated[str, AfterValidator(MASKS.checked)] = "top-k"
    any_guide: bool = False  # motion-vectors and motion-box may rank the scores of a guide that is not of motion
    ratio: Share = 0.6  # share of the tokens that are hidden
    # top-k: share of the hidden tokens that scores choose, at the first and at the last epoch, linear between; the rest
    # is drawn
    text_share: tuple[Unit, Unit] = (1.0, 1.0)
    # share of all tokens that the decoder skips, VideoMAE V2's dual masking by running cells (it takes 0.5); 0: it
    # predicts every hidden token
    decoder_ratio: Annotated[float, Field(ge=0, lt=1, multiple_of=0.25)] = 0.0


class Model(Section):
    """The encoder, and the decoder of pretraining."""

    size: Literal["tiny", "small", "base", "large", "huge", "giant"] = "base"  # of VideoMAE's models; tiny is for tests
    patch: Positive = 16  # pixels: side of a token
    tubelet: Positive = 2  # frames of a token
    attention: Literal["joint", "divided"] = "joint"  # divided: over time, then over space (TimeSformer)
    decoder_depth: NotNegative = 0  # 0: the preset's
    # weights to start from, or to evaluate where there is no pretraining: the folder of a run or of transformers'
    # VideoMAE, or a file in VideoMAE's format; "": none
    init: str = ""
    checkpoint_activations: bool = False  # compute activations twice to save memory


class ARVideo(Section):
    """Autoregressive prediction of clusters of cubes, in a random order (Ren et al. 2024)."""

    cluster: tuple[Positive, Positive, Positive] = (2, 7, 7)  # tokens along time, rows, columns
    drop: Share = 0.8  # of a cluster's tokens, not seen by the encoder
    order: Literal["random", "spatial-first", "temporal-first"] = "random"  # of the clusters
    decoder_dim: Positive = 512  # width
    decoder_depth: Positive = 4  # blocks
    decoder_heads: Positive = 8  # attention heads

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> ARVideo:
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(f"decoder_dim {self.decoder_dim} is not a multiple of decoder_heads {self.decoder_heads}")
        return self


class Objective(Section):
    """What pretraining minimises."""

    kind: Literal["mae", "arvideo"] = "mae"  # how pixels are predicted
    reconstruction: Annotated[float, Field(ge=0)] = 1.0  # weight of the masked-autoencoder loss
    contrastive: Annotated[float, Field(ge=0)] = 0.0  # weight of the video-text InfoNCE (section 3.4)
    norm_pixels: bool = True  # predict pixels normalised by patch and channel (VideoMAE), else as they are
    temperature: Annotated[float, Field(gt=0)] = 0.1  # of the contrastive loss
    learn_temperature: bool = False  # begin with it and learn it
    false_negatives: Literal["keep", "drop"] = "keep"  # drop: clips of one batch with the same caption are no negatives

    @model_validator(mode="after")
    def _something_to_learn(self) -> Objective:
        if self.reconstruction == 0 and self.contrastive == 0:
            raise ValueError("reconstruction and contrastive are both 0: there is nothing to learn")
        return self


class Optim(Section):
    """AdamW and the schedule of pretraining; finetune has its own."""

    epochs: Positive = 200  # of pretraining
    batch_size: Positive = 2048  # clips, over all processes and accumulated steps
    accumulate: Positive = 1  # micro-batches to an update
    base_lr: Annotated[float, Field(gt=0)] = 1.5e-4  # lr = base_lr * batch_size / 256
    min_lr: Annotated[float, Field(ge=0)] = 1e-5  # scaled likewise
    warmup_epochs: Annotated[float, Field(ge=0)] = 40.0  # the rate rises from 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05  # of AdamW; not on biases and norms
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    clip_grad: Annotated[float, Field(ge=0)] = 0.0  # greatest gradient norm; 0: not clipped

    @model_validator(mode="after")
    def _schedule_fits(self) -> Optim:
        check_schedule(self.warmup_epochs, self.epochs)
        return self


class Pretrain(Section):
    """How training runs; its processes, workers, decoder, device, precision and compile are also those of finetune."""

    seed: int = 0  # of weights, order, crops and masks
    processes: Positive = 1  # of torchrun on this machine
    workers: NotNegative | Literal["auto"] = "auto"  # loader processes, each rank; auto: 4, beside a GPU its cores
    decoder: Literal["auto", "pyav", "decord"] = "auto"  # of clips, to the same pixels; auto: pyav where it is there
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...
    # of the forward pass; parameters are float32. auto: bfloat16 on a GPU that computes it, else float32; a run keeps
    # what it was begun with
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # torch.compile; auto: long runs on a GPU; reduce-overhead: with CUDA graphs
    compile: bool | Literal["auto", "reduce-overhead"] = "auto"
    shuffle_shards: Positive = 16  # samples are shuffled within blocks of as many shards
    log_every: Positive = 10  # updates
    pictures_every: NotNegative = 0  # updates; a reconstruction into TensorBoard, not with fsdp or arvideo; 0: none
    save_every: Positive = 500  # updates
    keep: Positive = 2  # last checkpoints, and the best
    fsdp: bool = False  # shard parameters, gradients and optimiser over the processes (for ViT-H and g)
    wandb: str = ""  # project of Weights & Biases to log to as well; "": none


class Frozen(Section):
    """What is judged by frozen features: the mean of a clip's tokens, averaged over the views of a video."""

    train_split: str = "train"  # the split that classifiers learn from
    test_split: str = ""  # "": "test" where that split has labels, else "val" (SSv2, Kinetics, EPIC-Kitchens)
    test_share: Share = 0.25  # taken by key where the manifest names no splits
    sampling: Literal["dense", "segments"] = "dense"  # segments: one frame of each of as many equal parts (SSv2)
    views: Positive = 2  # clips of a video, evenly spaced in time
    spatial_views: Positive = 1  # crops of each clip along the long side; 1: the middle
    layer: Literal["norm", "block"] = "norm"  # tokens after the encoder's final norm; block: before it
    batch_size: Positive = 32  # clips
    missing: Literal["wrong", "exclude"] = "wrong"  # test videos that cannot be read
    untrained: bool = True  # also judge the same model untrained, for comparison
    chunk: Positive = 2048  # rows and columns of similarities in memory at once


class Linear(Section):
    """A linear layer after batch norm, by SGD: MAE's recipe is the default."""

    optimizer: Literal["lars", "sgd", "adamw"] = "lars"  # lars: as MAE
    epochs: Positive = 90  # over the training features
    batch_size: Annotated[int, Field(ge=2)] = 16384  # videos; at most the training set
    base_lr: tuple[Rate, ...] = (0.1, 1.0, 10.0)  # lr = base_lr * batch_size / 256; MAE: 0.1; several: one is chosen
    held_out: Share = 0.1  # of each class's training videos, to choose base_lr by; then all are trained on
    warmup_epochs: Annotated[float, Field(ge=0)] = 10.0  # the rate rises from 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # of the layer
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of lars and sgd
    seed: int = 0  # of the order of batches

    @model_validator(mode="after")
    def _schedule_fits(self) -> Linear:
        if not self.base_lr:
            raise ValueError("base_lr is empty: name one learning rate or several")
        check_schedule(self.warmup_epochs, self.epochs)
        return self


class Probe(Frozen):
    """Classifiers on frozen features (docs/probe_and_retrieval.md)."""

    l2: Annotated[float, Field(ge=0)] = 1e-3  # weight decay of the logistic regression
    neighbours: Positive = 20  # of the k-NN classifier (DINO)
    temperature: Annotated[float, Field(gt=0)] = 0.07  # of its votes, exp(cosine / temperature)
    linear: Linear = Linear()


class Retrieve(Frozen):
    """Zero-shot retrieval by frozen features (docs/probe_and_retrieval.md)."""

    group: str = ""  # expression for a video_id's group, UCF101: '(v_.+_g[0-9]+)_c'; other groups are judged by, too
    text: Literal["auto", "always", "never"] = "auto"  # captions, too; auto: where the encoder has a contrastive head

    @model_validator(mode="after")
    def _group_is_an_expression(self) -> Retrieve:
        try:
            re.compile(self.group)
        except re.error as error:
            raise ValueError(f"group = {self.group!r} is not a regular expression: {error}") from error
        return self


class Finetune(Section):
    """VideoMAE's recipe (its Kinetics-400 script for ViT-B is the default)."""

    train_split: str = "train"  # the split that is trained on
    test_split: str = ""  # "": "test" where that split has labels, else "val" (SSv2, Kinetics, EPIC-Kitchens)
    test_share: Share = 0.25  # taken by key where the manifest names no splits
    sampling: Literal["dense", "segments"] = "dense"  # segments: one frame of each of as many equal parts (SSv2)
    heads: Literal["label", "verb-noun"] = "label"  # verb-noun: two heads, an action's score is the product (EPIC)
    epochs: Positive = 100  # of fine-tuning
    batch_size: Positive = 512  # videos, over all processes and accumulated steps; repeats are not counted
    accumulate: Positive = 1  # micro-batches to an update
    repeats: Positive = 1  # augmented clips of a decoded video
    base_lr: Annotated[float, Field(gt=0)] = 1e-3  # lr = base_lr * batch_size / 256
    min_lr: Annotated[float, Field(ge=0)] = 1e-6  # scaled likewise
    warmup_epochs: Annotated[float, Field(ge=0)] = 5.0  # the rate rises from 0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75  # of the learning rate, from block to block downwards
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1  # greatest probability that a block is skipped
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # before the head
    weight_decay: Annotated[float, Field(ge=0)] = 0.05  # of AdamW
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    clip_grad: Annotated[float, Field(ge=0)] = 0.0  # greatest gradient norm; 0: not clipped
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of labels
    mixup: Annotated[float, Field(ge=0)] = 0.8  # alpha; 0: off
    cutmix: Annotated[float, Field(ge=0)] = 1.0  # alpha; 0: off
    rand_augment: str = "rand-m7-n4-mstd0.5-inc1"  # timm's notation; "": off
    erasing: Unit = 0.25  # probability of random erasing
    area: tuple[float, float] = (0.08, 1.0)  # of the random resized crop
    temporal_views: Positive = 5  # of a test video
    spatial_views: Positive = 3  # of each of these, along the long side
    missing: Literal["wrong", "exclude"] = "wrong"  # test videos that cannot be read
    seed: int = 0  # of the head, order and augmentation
    save_every: Positive = 500  # updates
    keep: Positive = 1  # last checkpoints, and the best

    @model_validator(mode="after")
    def _area_is_a_range(self) -> Finetune:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area = {list(self.area)} is not a range within 0 and 1")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Finetune:
        check_schedule(self.warmup_epochs, self.epochs)
        return self
