"""The experiment: one frozen value that says all that a run does. Read from TOML, overridden by --set.

Each section belongs to one stage; a field's comment gives its unit or source. docs/config.md is made from here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Precision = Literal["float32", "bfloat16", "float16"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Index(Section):
    """The videos as they lie on disk."""

    data: str = ""  # the folder of the videos
    format: Literal["folder", "csv", "files"] = "folder"
    list: str = ""  # csv: the list; relative paths in it are under `data`
    workers: NotNegative = 0  # processes that probe; 0: one a core


class Ray(Section):
    """Where and how widely captions, clips and guides are made. Changes no output."""

    address: str = ""  # of a running cluster; "": a local one in this process
    workers: NotNegative = 0  # actors; 0: as many as the cluster holds
    cpus: Annotated[float, Field(gt=0)] = 1.0  # of each actor
    gpus: Annotated[float, Field(ge=-1)] = -1.0  # of each actor that holds a model; -1: one where there are any
    retries: NotNegative = 3  # of a shard whose actor died


class Blip2(Section):
    model: str = "Salesforce/blip2-opt-2.7b"  # hub name or local folder
    revision: str = "main"  # of a hub name
    prompt: str = ""
    batch_size: Positive = 32  # frames
    dtype: Precision = "float32"
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...
    num_beams: Positive = 1
    max_new_tokens: Positive = 30


class Oracle(Section):
    template: str = "{}"  # {} is the label's text


class Caption(Section):
    keyframes: Positive = 3  # at the midpoints of as many equal parts (section 3.2); 1: the centre frame
    videos_per_shard: Positive = 256  # the unit of work and of resume
    decode_threads: Positive = 2
    blip2: Blip2 = Blip2()
    oracle: Oracle = Oracle()


class Shard(Section):
    """Re-encoding, once, for cheap random access."""

    short_side: Positive = 256  # pixels; smaller videos are not enlarged
    gop: Positive = 12  # frames from one key frame to the next
    crf: Annotated[int, Field(ge=0, le=51)] = 23  # x264's constant rate factor
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "veryfast"
    max_mb: Annotated[float, Field(gt=0)] = 256.0  # about, a tar; estimated from the manifest
    max_videos: Positive = 4096  # at most, a tar


class Text(Section):
    """The text guide (section 3.3)."""

    model: str = "ViT-B-32-quickgelu"  # open_clip architecture, or local-dir:FOLDER
    pretrained: str = "openai"  # open_clip tag or a local file; ignored for local-dir
    patch: Positive = 16  # pixels of the stored clip's frame: the side of a crop and the pitch of the grid
    frame_stride: Positive = 4  # every n-th frame is scored
    batch_size: Positive = 1024  # crops
    precision: Precision = "float32"
    device: str = "auto"


class Clip(Section):
    """What the model sees, and the augmentation of pretraining (section 4.2; VideoMAE's dataset code)."""

    frames: Positive = 16
    stride: Positive = 4  # frames of the video between two of the clip: 4 for K400, 2 for SSv2
    size: Positive = 224  # pixels
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)  # multi-scale crop, shares of the short side
    flip: bool = True  # horizontally, half of the time; not for SSv2


class Mask(Section):
    kind: Literal["top-k", "bottom-k", "tube", "random"] = "top-k"
    ratio: Share = 0.6


class Model(Section):
    size: Literal["tiny", "small", "base", "large", "huge", "giant"] = "base"
    patch: Positive = 16
    tubelet: Positive = 2
    decoder_depth: NotNegative = 0  # 0: the preset's
    checkpoint_activations: bool = False


class Objective(Section):
    reconstruction: Annotated[float, Field(ge=0)] = 1.0  # weight of the masked-autoencoder loss
    contrastive: Annotated[float, Field(ge=0)] = 0.0  # weight of the video-text InfoNCE (section 3.4)
    norm_pixels: bool = True  # predict pixels normalised by patch and channel (VideoMAE), else as they are
    temperature: Annotated[float, Field(gt=0)] = 0.1
    learn_temperature: bool = False
    false_negatives: Literal["keep", "drop"] = "keep"  # drop: clips of one batch with the same caption are no negatives

    @model_validator(mode="after")
    def _something_to_learn(self) -> Objective:
        if self.reconstruction == 0 and self.contrastive == 0:
            raise ValueError("reconstruction and contrastive are both 0: there is nothing to learn")
        return self


class Optim(Section):
    epochs: Positive = 200
    batch_size: Positive = 2048  # clips, over all processes and accumulated steps
    accumulate: Positive = 1  # micro-batches to an update
    base_lr: Annotated[float, Field(gt=0)] = 1.5e-4  # lr = base_lr * batch_size / 256
    min_lr: Annotated[float, Field(ge=0)] = 1e-5  # scaled likewise
    warmup_epochs: Annotated[float, Field(ge=0)] = 40.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_grad: Annotated[float, Field(ge=0)] = 0.0  # greatest gradient norm; 0: not clipped


class Pretrain(Section):
    seed: int = 0
    processes: Positive = 1  # of torchrun on this machine
    workers: NotNegative = 4  # data loader processes, each rank
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compile: bool = False
    shuffle_shards: Positive = 16  # samples are shuffled within blocks of as many shards
    log_every: Positive = 10  # updates
    save_every: Positive = 500  # updates
    keep: Positive = 2  # last checkpoints


class Probe(Section):
    """A linear classifier on frozen features."""

    train_split: str = "train"
    test_split: str = "test"
    test_share: Share = 0.25  # taken by key where the manifest names no splits
    views: Positive = 2  # clips of a video, evenly spaced in time; features averaged
    batch_size: Positive = 32
    l2: Annotated[float, Field(ge=0)] = 1e-3  # weight decay of the logistic regression
    untrained: bool = True  # also probe the same model untrained, for comparison


class Experiment(Section):
    workspace: str  # folder; relative to where the command runs
    name: str = "pretrain"  # of the run
    captions: Literal["blip2", "oracle"] = "blip2"  # the caption set
    guide: Literal["text", "none"] = "text"  # none: masks that need no scores
    max_failures: str = "10%"  # of the videos, or a number; beyond it a stage stops

    index: Index = Index()
    ray: Ray = Ray()
    caption: Caption = Caption()
    shard: Shard = Shard()
    text: Text = Text()
    clip: Clip = Clip()
    mask: Mask = Mask()
    model: Model = Model()
    objective: Objective = Objective()
    optim: Optim = Optim()
    pretrain: Pretrain = Pretrain()
    probe: Probe = Probe()

    @property
    def guide_name(self) -> str | None:
        """Folder of the guide under guides/, or None where nothing is stored."""
        return f"text-{self.captions}" if self.guide == "text" else None

    @model_validator(mode="after")
    def _sections_agree(self) -> Experiment:
        if self.mask.kind in ("top-k", "bottom-k") and self.guide == "none":
            raise ValueError(f"mask.kind = {self.mask.kind!r} ranks score maps: it needs guide = 'text'")
        if self.objective.contrastive and self.guide != "text":
            raise ValueError("objective.contrastive needs text embeddings: set guide = 'text'")
        if self.clip.size % self.model.patch:
            raise ValueError(f"clip.size {self.clip.size} is not a multiple of model.patch {self.model.patch}")
        if self.clip.frames % self.model.tubelet:
            raise ValueError(f"clip.frames {self.clip.frames} is not a multiple of model.tubelet {self.model.tubelet}")
        if self.optim.batch_size % (self.optim.accumulate * self.pretrain.processes):
            raise ValueError(
                f"optim.batch_size {self.optim.batch_size} is not a multiple of accumulate x processes "
                f"= {self.optim.accumulate} x {self.pretrain.processes}"
            )
        return self
