"""What index, caption, shard, features and guide read. A field's comment gives its unit or source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from schemas import registry
from schemas.config.section import AutoPrecision, NotNegative, Positive, Section, Share

GUIDES = (*registry.GUIDES, "none")
SPEAKING = ("text", "embeddings")  # guides made from captions; embeddings: of their texts alone, no scores
MOTION = ("motion-vectors", "flow-magnitude")  # guides whose scores are of motion
FLOWS = ("optical-flow", "flow-magnitude")
UNRANKED = ("embeddings", "optical-flow", "none")  # guides without a score to rank patches by
CAPTION_SOURCES = (*registry.FRAME_CAPTIONERS, *registry.ROW_CAPTIONERS)


def caption_source(name: str) -> str:
    """What makes the caption set of that name: "blip2.centre" is a set of "blip2", kept next to others of it.

    So is "my.module:Words.centre" one of "my.module:Words".
    """
    module, colon, rest = name.rpartition(":")
    return module + colon + rest.partition(".")[0]


class Index(Section):
    """The videos as they are on disk."""

    data: str = ""  # the folder of the videos
    format: Annotated[str, AfterValidator(registry.FORMATS.checked)] = "folder"  # of the list (docs/datasets.md)
    list: str = ""  # csv: the list, its paths relative to `data`; epic55: what is for validation (docs/datasets.md)
    annotations: str = ""  # folder of the dataset's own annotation files (docs/datasets.md); "": `data`
    split: Annotated[int, Field(ge=1, le=3)] = 1  # official split of UCF101 and HMDB51
    val_participants: tuple[str, ...] = ("P26", "P27", "P28", "P29", "P30", "P31")  # epic55's, if there is no list
    follow_links: bool = False  # into folders, and out of `data`: data sets of symbolic links (DVC, caches of hubs)
    workers: NotNegative = 0  # processes that probe; 0: one a core


NO_RAY = "none"
FRAMES_AT_ONCE, CROPS_AT_ONCE, PAIRS_AT_ONCE = 32, 1024, 8  # of a model where batch_size = 0 and none was found


class Ray(Section):
    """Where and how widely captions, clips and guides are made. Changes no output."""

    # of a running cluster; "": a local Ray, started for the command; "none": no Ray, one worker in this process, which
    # ends with the command where a decoder crashes
    address: str = ""
    workers: NotNegative = 0  # actors; 0: as many as the cluster holds
    cpus: Annotated[float, Field(gt=0)] = 1.0  # of each actor
    gpus: Annotated[float, Field(ge=-1)] = -1.0  # of each actor that holds a model; -1: one where there are any
    decode_threads: NotNegative = 0  # of an actor that scores or embeds; 0: one a core that it has, 16 at most
    retries: NotNegative = 3  # of a part of a shard whose actor died

    @property
    def in_process(self) -> bool:
        return self.address == NO_RAY

    @property
    def cluster(self) -> str:
        """The address of the cluster to join; empty where there is none to join."""
        return "" if self.in_process else self.address

    # memory of the process that decodes a video, GiB; a video that needs more is a failure; 0: no limit
    decoder_gb: Annotated[float, Field(ge=0)] = 4.0

    @property
    def decoder_bytes(self) -> int:
        return round(self.decoder_gb * 2**30)


class Blip2(Section):
    """Frames captioned by BLIP-2 through transformers (section 3.2)."""

    model: str = "Salesforce/blip2-opt-2.7b"  # hub name or local folder
    revision: str = "main"  # of a hub name
    prompt: str = ""  # what the text begins with; "": nothing
    # frames; 0: 32, on a GPU what pays, found when a set is begun and kept; halved when memory runs out
    batch_size: NotNegative = 0
    # of the weights; auto: bfloat16 on a GPU that computes it, else float32; a set keeps what it was begun with
    dtype: AutoPrecision = "auto"
    load_in_8bit: bool = False  # by bitsandbytes
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...
    num_beams: Positive = 1  # of beam search; 1: greedy
    max_new_tokens: Positive = 30  # of a caption
    min_new_tokens: NotNegative = 0  # of a caption
    length_penalty: float = 1.0  # of beams
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0  # of tokens that were said; 1: none
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
    model_type: str = "caption_coco_opt2.7b"  # of that model in LAVIS' zoo
    models: str = ""  # a .py file, run first: one's own models for LAVIS' registry
    prompt: str = ""  # "": that of the model type
    # frames; 0: 32, on a GPU what pays, found when a set is begun and kept; halved when memory runs out
    batch_size: NotNegative = 0
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
    dtype: AutoPrecision = "auto"  # of a local model, as caption.blip2.dtype
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
    deadline: Annotated[float, Field(gt=0)] = 300.0  # seconds for a whole answer, however it trickles
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

    enabled: bool = False  # whether captions are cleaned
    unprintable: bool = True  # control characters and the like are cut
    repeats: bool = True  # words said over and over are said once
    boilerplate: tuple[str, ...] = ("arafed", "araffed", "araffe")  # words or phrases to cut


class Caption(Section):
    """What a caption set is made of (docs/captions.md)."""

    keyframes: Positive = 3  # of a video; 1: the centre frame
    placing: Literal["uniform", "random"] = "uniform"  # midpoints of equal parts (section 3.2), or drawn by seed
    seed: int = 0  # of all that is drawn, with the video's id
    videos_per_shard: Positive = 256  # the unit of work and of resume
    decode_threads: NotNegative = 0  # that decode ahead of a model; 0: one a core of the worker, 16 at most
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
    # every n-th frame is stored, so that clips load faster; clip.stride and frame_stride of guides count what is stored
    frame_step: Positive = 1
    crf: Annotated[int, Field(ge=0, le=51)] = 23  # x264's constant rate factor
    # x264's: slower ones make smaller files
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "veryfast"
    # frames between two others that no other leans on: those a clip skips are not decoded; not with motion-vectors
    bframes: Annotated[int, Field(ge=0, le=7)] = 0
    # x264's; fastdecode: clips load faster, from larger files (docs/benchmarks.md)
    tune: Literal["", "fastdecode"] = ""
    max_mb: Annotated[float, Field(gt=0)] = 256.0  # about, a tar; estimated from the manifest
    max_videos: Positive = 4096  # at most, a tar
    # of a video, a share ('5%') or a number ('25'): with more frames missing it is a failure; one is never too many
    max_lost_frames: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?%?$")] = "5%"


class Text(Section):
    """The text guide (section 3.3; docs/score_maps.md)."""

    model: str = "ViT-B-32-quickgelu"  # open_clip architecture, or local-dir:FOLDER
    pretrained: str = "openai"  # open_clip tag or a local file; ignored for local-dir
    patch: Positive = 16  # pixels of the stored clip's frame: the side of a crop
    # pixels from one cell of the grid to the next; crops overlap below `patch`; 0: `patch`
    grid_stride: NotNegative = 0
    frame_stride: Positive = 4  # every n-th frame is scored
    method: Literal["crops", "dense"] = "crops"  # each patch by itself (section 3.3), or one pass of the whole frame
    crop_size: NotNegative = 0  # crops: pixels that the encoder is made for, positions interpolated; 0: its own
    resolution: NotNegative = 0  # dense: pixels of the short side of what the encoder sees; 0: one token a patch
    # dense, in the last block; value: MaskCLIP; query-query+key-key: SCLIP
    attention: Literal["original", "value", "query-query", "query-query+key-key"] = "value"
    last_block: Literal["whole", "attention"] = "whole"  # dense; attention: no residual, no feed-forward (ClearCLIP)
    # crops; dense: frames of as many pixels; 0: 1024, on a GPU what pays, found when a stage is begun and kept
    batch_size: NotNegative = 0
    precision: AutoPrecision = "auto"  # of the encoder, as caption.blip2.dtype
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...
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
    # pairs of frames, of raft; 0: 8, on a GPU what pays, found when a guide is begun and kept
    batch_size: NotNegative = 0
    device: str = "auto"  # of raft
