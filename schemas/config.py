"""The experiment: one frozen value that says all that a run does. Read from TOML, overridden by --set.

Each section belongs to one stage; a field's comment gives its unit or source. docs/config.md is made from here.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.errors import choice_error

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Unit = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Precision = Literal["float32", "bfloat16", "float16"]


GUIDES = ("text", "embeddings", "motion-vectors", "optical-flow", "flow-magnitude", "none")
SPEAKING = ("text", "embeddings")  # guides made from captions; embeddings: of their texts alone, no scores
UNRANKED = ("embeddings", "optical-flow", "none")  # guides without a score to rank patches by
CAPTION_SOURCES = ("blip2", "blip", "lavis", "oracle", "llm", "file")


def caption_source(name: str) -> str:
    """What makes the caption set of that name: "blip2.centre" is a set of "blip2", kept beside others of it."""
    return name.partition(".")[0]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Index(Section):
    """The videos as they lie on disk."""

    data: str = ""  # the folder of the videos
    format: Literal[
        "folder", "csv", "files", "ssv2", "kinetics", "videomae", "ucf101", "hmdb51", "diving48", "epic55", "epic100"
    ] = "folder"
    list: str = ""  # csv: the list, its paths relative to `data`; epic55: what is for validation (docs/datasets.md)
    annotations: str = ""  # folder of the dataset's own annotation files (docs/datasets.md); "": `data`
    split: Annotated[int, Field(ge=1, le=3)] = 1  # official split of UCF101 and HMDB51
    val_participants: tuple[str, ...] = ("P26", "P27", "P28", "P29", "P30", "P31")  # epic55's, if there is no list
    workers: NotNegative = 0  # processes that probe; 0: one a core


class Ray(Section):
    """Where and how widely captions, clips and guides are made. Changes no output."""

    address: str = ""  # of a running cluster; "": a local one in this process
    workers: NotNegative = 0  # actors; 0: as many as the cluster holds
    cpus: Annotated[float, Field(gt=0)] = 1.0  # of each actor
    gpus: Annotated[float, Field(ge=-1)] = -1.0  # of each actor that holds a model; -1: one where there are any
    retries: NotNegative = 3  # of a shard whose actor died


class Blip2(Section):
    """Frames captioned by BLIP-2 through transformers (section 3.2)."""

    model: str = "Salesforce/blip2-opt-2.7b"  # hub name or local folder
    revision: str = "main"  # of a hub name
    prompt: str = ""
    batch_size: Positive = 32  # frames; halved when memory runs out
    dtype: Precision = "float32"
    load_in_8bit: bool = False  # by bitsandbytes
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...
    num_beams: Positive = 1
    max_new_tokens: Positive = 30
    min_new_tokens: NotNegative = 0
    length_penalty: float = 1.0  # of beams
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    sample: bool = False  # draw words, seeded by caption.seed, video and frame; else the most likely
    temperature: Annotated[float, Field(gt=0)] = 1.0  # of sampling
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9  # of sampling: the nucleus

    @model_validator(mode="after")
    def _one_way_to_search(self) -> Blip2:
        if self.sample and self.num_beams > 1:
            raise ValueError(f"sample = true draws words, num_beams = {self.num_beams} searches: choose one")
        return self


class Blip(Blip2):
    """Frames captioned by BLIP through transformers."""

    model: str = "Salesforce/blip-image-captioning-base"  # hub name or local folder


class Lavis(Section):
    """Frames captioned by salesforce-lavis, in an environment of its own (docs/captions.md)."""

    name: str = "blip2_opt"  # of LAVIS' model zoo: blip2_opt, blip2_t5, blip_caption ...
    model_type: str = "caption_coco_opt2.7b"
    models: str = ""  # a .py file, run first: one's own models for LAVIS' registry
    prompt: str = ""  # "": that of the model type
    batch_size: Positive = 32  # frames; halved when memory runs out
    num_beams: NotNegative = 0  # 0, here and below: LAVIS' default for the model
    max_length: NotNegative = 0  # tokens
    min_length: NotNegative = 0  # tokens
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...
    python: str = ""  # interpreter of an environment with LAVIS; "": Ray makes one, each time that it starts


class Oracle(Section):
    """The label's text as the caption."""

    template: str = "{}"  # {} is the label's text
    fill: bool = True  # a label with places to fill ("Holding [something]") is said as the list fills them


class Llm(Section):
    """Descriptions of each class by a language model (table 6a), which never sees a video."""

    file: str = ""  # JSON made elsewhere, {class: [texts]}; then nothing is asked
    local: str = ""  # transformers' causal model, hub name or local folder; "": an OpenAI-compatible endpoint
    revision: str = "main"  # of a hub name
    device: str = "auto"  # of a local model
    dtype: Precision = "float32"  # of a local model
    model: str = "gpt-3.5-turbo"  # as the endpoint names it
    url_variable: str = "OPENAI_BASE_URL"  # environment variable with the endpoint's address; unset: OpenAI's
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the key; never stored or printed
    prompts: tuple[str, ...] = (  # {} is the class
        "Describe the action {}.",
        "What does a person {} look like?",
        "What does the act of {} look like?",
    )
    samples: Positive = 10  # answers to each prompt (CuPL)
    temperature: Annotated[float, Field(ge=0)] = 0.99  # CuPL
    max_tokens: Positive = 50  # of an answer (CuPL); CLIP reads 77
    sentences: NotNegative = 1  # kept of an answer (CuPL stops at the first full stop); 0: all
    max_words: Positive = 60  # an answer that is still longer is not used
    per_video: NotNegative = 3  # descriptions of its class that a video gets, drawn by caption.seed; 0: all
    concurrency: Positive = 4  # requests at once
    requests_per_minute: NotNegative = 0  # 0: no limit of ours
    timeout: Annotated[float, Field(gt=0)] = 60.0  # seconds without a byte
    retries: NotNegative = 6  # of a request that fails or is answered with nonsense
    backoff: Annotated[float, Field(gt=0)] = 1.0  # seconds before the first retry, doubled for each; Retry-After wins
    max_requests: NotNegative = 20000  # more are refused before the first is sent; 0: no limit
    price: tuple[float, float] = (0.0, 0.0)  # dollars for a million tokens asked and answered, for the estimate
    cache: str = ""  # folder of answers; "": cache/llm in the workspace


class CaptionFile(Section):
    """Captions that exist already, joined by video."""

    path: str = ""  # .csv, .jsonl or .parquet; or a folder of .vtt and .srt, one a video
    video_column: str = "video_id"  # names a video: path under the data folder, file name or stem
    text_column: str = "text"  # a text, or a list of them
    time_column: str = ""  # seconds from the start of the file; "": none
    per_video: NotNegative = 0  # at most, evenly spaced; 0: all


class Mix(Section):
    """A set made of others, such as captions = "blip2+llm"."""

    weights: tuple[Positive, ...] = ()  # how often each caption of a part is in the mix, by part; empty: once


class Clean(Section):
    """Mending of captions. What was changed is in changes.parquet."""

    enabled: bool = False
    unprintable: bool = True  # control characters and the like are cut
    repeats: bool = True  # words said over and over are said once
    boilerplate: tuple[str, ...] = ("arafed", "araffed", "araffe")  # words or phrases to cut


class Caption(Section):
    keyframes: Positive = 3  # of a video; 1: the centre frame
    placing: Literal["uniform", "random"] = "uniform"  # midpoints of equal parts (section 3.2), or drawn by seed
    seed: int = 0  # of all that is drawn, with the video's id
    videos_per_shard: Positive = 256  # the unit of work and of resume
    decode_threads: Positive = 2
    blip2: Blip2 = Blip2()
    blip: Blip = Blip()
    lavis: Lavis = Lavis()
    oracle: Oracle = Oracle()
    llm: Llm = Llm()
    file: CaptionFile = CaptionFile()
    mix: Mix = Mix()
    clean: Clean = Clean()


class Shard(Section):
    """Re-encoding, once, for cheap random access."""

    short_side: Positive = 256  # pixels; smaller videos are not enlarged
    gop: Positive = 12  # frames from one key frame to the next
    crf: Annotated[int, Field(ge=0, le=51)] = 23  # x264's constant rate factor
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "veryfast"
    max_mb: Annotated[float, Field(gt=0)] = 256.0  # about, a tar; estimated from the manifest
    max_videos: Positive = 4096  # at most, a tar


class Text(Section):
    """The text guide (section 3.3; docs/score_maps.md)."""

    model: str = "ViT-B-32-quickgelu"  # open_clip architecture, or local-dir:FOLDER
    pretrained: str = "openai"  # open_clip tag or a local file; ignored for local-dir
    patch: Positive = 16  # pixels of the stored clip's frame: the side of a crop
    grid_stride: NotNegative = (
        0  # pixels from one cell of the grid to the next; crops overlap below `patch`; 0: `patch`
    )
    frame_stride: Positive = 4  # every n-th frame is scored
    method: Literal["crops", "dense"] = "crops"  # each patch by itself (section 3.3), or one pass of the whole frame
    crop_size: NotNegative = 0  # crops: pixels that the encoder is made for, positions interpolated; 0: its own
    resolution: NotNegative = 0  # dense: pixels of the short side of what the encoder sees; 0: one token a patch
    # value: MaskCLIP; query-query+key-key: SCLIP.
    attention: Literal["original", "value", "query-query", "query-query+key-key"] = "value"  # dense, in the last block
    last_block: Literal["whole", "attention"] = "whole"  # dense; attention: no residual, no feed-forward (ClearCLIP)
    batch_size: Positive = 1024  # crops; dense: frames of as many pixels
    precision: Precision = "float32"
    device: str = "auto"
    compile: bool = False  # crops: torch.compile the encoder
    cache: bool = False  # keep the patches' embeddings, so that another caption set needs the text tower only
    cache_kept: Share = 0.999  # of the embeddings' variance, which decides how many directions are kept
    cache_bits: Annotated[int, Field(ge=2, le=8)] = 8  # of a coordinate

    @property
    def pitch(self) -> int:
        """Pixels from one cell of the grid to the next."""
        return self.grid_stride or self.patch

    @model_validator(mode="after")
    def _options_fit_the_method(self) -> Text:
        if self.grid_stride > self.patch:
            raise ValueError(
                f"grid_stride {self.grid_stride} is more than patch {self.patch}: some pixels are in no cell"
            )
        if self.method == "dense" and (self.crop_size or self.compile):
            raise ValueError("crop_size and compile are for method = 'crops'; dense takes resolution")
        return self


class Motion(Section):
    """The guide motion-vectors: the codec's own, read from the clips (Fan et al. 2023, MGM)."""

    patch: Positive = 16  # pixels of the stored clip's frame: the pitch of the grid; a vector moves 8 x 8 or more
    frame_stride: Positive = 4  # every n-th frame has a map: the mean over the frames nearest to it
    remove_camera: bool = True  # subtract the frame's median motion


class Flow(Section):
    """The guides optical-flow (Huang et al. 2023, MGMAE) and flow-magnitude."""

    engine: Literal["dis", "farneback", "raft"] = "dis"  # OpenCV's two need no weights; MGMAE takes RAFT
    model: Literal["raft_small", "raft_large"] = "raft_small"  # of raft
    weights: str = "C_T_V2"  # of raft: torchvision's name for them, or a local file
    iterations: Positive = 6  # of raft (MGMAE)
    patch: Positive = 8  # pixels of the stored clip's frame: the pitch of the grid
    frame_stride: Positive = 4  # flow leads from every n-th frame to the next such and to the one before
    remove_camera: bool = True  # of flow-magnitude: subtract the frame's median flow
    batch_size: Positive = 8  # pairs of frames, of raft; halved when memory runs out
    device: str = "auto"  # of raft


class Clip(Section):
    """What the model sees, and the augmentation of pretraining (section 4.2; VideoMAE's dataset code)."""

    frames: Positive = 16
    stride: Positive = 4  # frames of the video between two of the clip: 4 for K400, 2 for SSv2
    size: Positive = 224  # pixels
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)  # multi-scale crop, shares of the short side
    flip: bool = True  # horizontally, half of the time; not for SSv2
    repeats: Positive = 1  # augmented, masked clips of a decoded video, together in a batch; batch_size counts all


class Mask(Section):
    # top-k, bottom-k and motion-vectors rank the guide's scores, optical-flow carries a random map along its flow.
    kind: Literal["top-k", "bottom-k", "tube", "random", "motion-vectors", "motion-box", "optical-flow"] = "top-k"
    ratio: Share = 0.6
    # Shares at the first and at the last epoch, linear between.
    text_share: tuple[Unit, Unit] = (1.0, 1.0)  # top-k: of the hidden tokens, those scores choose; the rest is drawn
    # VideoMAE V2's dual masking by running cells (it takes 0.5); 0: the decoder predicts every hidden token.
    decoder_ratio: Annotated[float, Field(ge=0, lt=1, multiple_of=0.25)] = 0.0  # of all tokens, skipped by the decoder


class Model(Section):
    size: Literal["tiny", "small", "base", "large", "huge", "giant"] = "base"
    patch: Positive = 16
    tubelet: Positive = 2
    attention: Literal["joint", "divided"] = "joint"  # divided: over time, then over space (TimeSformer)
    decoder_depth: NotNegative = 0  # 0: the preset's
    init: str = ""  # weights to start from, or to judge where there is no pretraining: the folder of a run or of
    # transformers' VideoMAE, or a file in VideoMAE's format; "": none
    checkpoint_activations: bool = False


class ARVideo(Section):
    """Autoregressive prediction of clusters of cubes, in a random order (Ren et al. 2024)."""

    cluster: tuple[Positive, Positive, Positive] = (2, 7, 7)  # tokens along time, rows, columns
    drop: Share = 0.8  # of a cluster's tokens, not seen by the encoder
    order: Literal["random", "spatial-first", "temporal-first"] = "random"
    decoder_dim: Positive = 512
    decoder_depth: Positive = 4
    decoder_heads: Positive = 8


class Objective(Section):
    kind: Literal["mae", "arvideo"] = "mae"  # how pixels are predicted
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
    keep: Positive = 2  # last checkpoints, and the best
    fsdp: bool = False  # shard parameters, gradients and optimiser over the processes (for ViT-H and g)
    wandb: str = ""  # project of Weights & Biases to log to as well; "": none


class Frozen(Section):
    """What is judged by frozen features: the mean of a clip's tokens, averaged over the views of a video."""

    train_split: str = "train"
    test_split: str = "test"
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
    """A linear layer after batch norm, trained in steps: MAE's recipe is the default."""

    optimizer: Literal["lars", "sgd", "adamw"] = "lars"
    epochs: Positive = 90
    batch_size: Annotated[int, Field(ge=2)] = 16384  # videos; at most the training set
    base_lr: tuple[Rate, ...] = (0.1, 1.0, 10.0)  # lr = base_lr * batch_size / 256; MAE: 0.1; several: one is chosen
    held_out: Share = 0.1  # of each class's training videos, to choose base_lr by; then all are trained on
    warmup_epochs: Annotated[float, Field(ge=0)] = 10.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of lars and sgd
    seed: int = 0

    @model_validator(mode="after")
    def _schedule_fits(self) -> Linear:
        if not self.base_lr:
            raise ValueError("base_lr is empty: name one learning rate or several")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} is more than epochs {self.epochs}")
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

    train_split: str = "train"
    test_split: str = "test"
    test_share: Share = 0.25  # taken by key where the manifest names no splits
    sampling: Literal["dense", "segments"] = "dense"  # segments: one frame of each of as many equal parts (SSv2)
    heads: Literal["label", "verb-noun"] = "label"  # verb-noun: two heads, an action's score is the product (EPIC)
    epochs: Positive = 100
    batch_size: Positive = 512  # videos, over all processes and accumulated steps; repeats are not counted
    accumulate: Positive = 1
    repeats: Positive = 1  # augmented clips of a decoded video
    base_lr: Annotated[float, Field(gt=0)] = 1e-3  # lr = base_lr * batch_size / 256
    min_lr: Annotated[float, Field(ge=0)] = 1e-6  # scaled likewise
    warmup_epochs: Annotated[float, Field(ge=0)] = 5.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # before the head
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad: Annotated[float, Field(ge=0)] = 0.0
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of labels
    mixup: Annotated[float, Field(ge=0)] = 0.8  # alpha; 0: off
    cutmix: Annotated[float, Field(ge=0)] = 1.0  # alpha; 0: off
    rand_augment: str = "rand-m7-n4-mstd0.5-inc1"  # timm's notation; "": off
    erasing: Unit = 0.25  # probability of random erasing
    area: tuple[float, float] = (0.08, 1.0)  # of the random resized crop
    temporal_views: Positive = 5  # of a test video
    spatial_views: Positive = 3
    missing: Literal["wrong", "exclude"] = "wrong"  # test videos that cannot be read
    seed: int = 0
    save_every: Positive = 500  # updates
    keep: Positive = 1

    @model_validator(mode="after")
    def _area_is_a_range(self) -> Finetune:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area = {list(self.area)} is not a range within 0 and 1")
        return self


StageName = Literal["pretrain", "finetune", "probe", "retrieve"]


class Experiment(Section):
    workspace: str  # folder; relative to where the command runs
    name: str = "pretrain"  # of the run
    captions: str = "blip2"  # the caption set: one of CAPTION_SOURCES, such as blip2 or blip2.NAME; a mix: blip2+llm
    guide: str = "text"  # one of GUIDES, or a class of one's own as module:ClassName; none: nothing is stored
    stages: tuple[StageName, ...] = ("pretrain", "probe")  # what `tgmae run` does after the data
    max_failures: str = "10%"  # of the videos, or a number; beyond it a stage stops

    index: Index = Index()
    ray: Ray = Ray()
    caption: Caption = Caption()
    shard: Shard = Shard()
    text: Text = Text()
    motion: Motion = Motion()
    flow: Flow = Flow()
    clip: Clip = Clip()
    mask: Mask = Mask()
    model: Model = Model()
    objective: Objective = Objective()
    arvideo: ARVideo = ARVideo()
    optim: Optim = Optim()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    probe: Probe = Probe()
    retrieve: Retrieve = Retrieve()

    @property
    def guide_name(self) -> str | None:
        """Folder of the guide under guides/, or None where nothing is stored."""
        if self.guide == "none":
            return None
        return f"{self.guide}-{self.captions}" if self.guide in SPEAKING else self.guide.replace(":", ".")

    @property
    def text_name(self) -> str | None:
        """Folder under guides/ of the text embeddings that the contrastive loss needs, or None where there is none."""
        if not self.objective.contrastive:
            return None
        return self.guide_name if self.guide in SPEAKING else f"embeddings-{self.captions}"

    @model_validator(mode="after")
    def _sections_agree(self) -> Experiment:
        kind = self.mask.kind
        for part in self.captions.split("+"):
            if caption_source(part) not in CAPTION_SOURCES:
                raise ValueError(str(choice_error("caption source", part, CAPTION_SOURCES)))
        if self.guide not in GUIDES and ":" not in self.guide:
            raise ValueError(f"guide = {self.guide!r} is not one of {', '.join(GUIDES)}, nor module:ClassName")
        masked = self.objective.kind == "mae"  # ARVideo reads no mask
        if masked and kind in ("top-k", "bottom-k", "motion-vectors", "motion-box") and self.guide in UNRANKED:
            raise ValueError(f"mask.kind = {kind!r} ranks score maps, which guide = {self.guide!r} has not")
        if masked and kind == "optical-flow" and self.guide != "optical-flow":
            raise ValueError("mask.kind = 'optical-flow' carries a map along the flow: it needs guide = 'optical-flow'")
        if self.mask.text_share != (1.0, 1.0) and kind != "top-k":
            raise ValueError(f"mask.text_share mixes top-k with chance; mask.kind is {kind!r}")
        if self.clip.size % self.model.patch:
            raise ValueError(f"clip.size {self.clip.size} is not a multiple of model.patch {self.model.patch}")
        if self.clip.frames % self.model.tubelet:
            raise ValueError(f"clip.frames {self.clip.frames} is not a multiple of model.tubelet {self.model.tubelet}")
        if self.mask.decoder_ratio and self.clip.size // self.model.patch % 2:
            raise ValueError(
                f"mask.decoder_ratio works on cells of 2 x 2 patches, clip.size {self.clip.size} is an odd number of "
                f"patches of {self.model.patch}"
            )
        if self.optim.batch_size % (self.optim.accumulate * self.pretrain.processes * self.clip.repeats):
            raise ValueError(
                f"optim.batch_size {self.optim.batch_size} is not a multiple of accumulate x processes x clip.repeats "
                f"= {self.optim.accumulate} x {self.pretrain.processes} x {self.clip.repeats}"
            )
        return self
