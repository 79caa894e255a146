"""The experiment: one frozen value that says all that a run does, and the checks between its sections."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator, model_validator

from schemas.config.pipeline import (
    CAPTION_SOURCES,
    GUIDES,
    MOTION,
    SPEAKING,
    UNRANKED,
    Caption,
    Flow,
    Index,
    Motion,
    Ray,
    Shard,
    Text,
    caption_source,
)
from schemas.config.section import Section
from schemas.config.train import ARVideo, Clip, Finetune, Mask, Model, Objective, Optim, Pretrain, Probe, Retrieve
from schemas.errors import choice_error

StageName = Literal["pretrain", "finetune", "probe", "retrieve"]


class Experiment(Section):
    workspace: str  # folder; relative to where the command runs
    name: str = "pretrain"  # of the run
    # the caption set: one of CAPTION_SOURCES, such as blip2 or blip2.NAME; a class of one's own as module:ClassName; a
    # mix: blip2+llm
    captions: str = "blip2"
    guide: str = "text"  # one of GUIDES, or a class of one's own as module:ClassName; none: nothing is stored
    stages: tuple[StageName, ...] = ("pretrain", "probe")  # what `tgmae run` does after the data
    max_failures: str = "10%"  # of the videos, or a number; beyond it a stage stops
    allow_fewer: bool = False  # replace a finished stage even where more than max_failures of its videos would go

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
        name = f"{self.guide}-{self.captions}" if self.guide in SPEAKING else self.guide
        return name.replace(":", ".")

    @property
    def text_name(self) -> str | None:
        """Folder under guides/ of the text embeddings that the contrastive loss needs, or None where there is none."""
        if not self.objective.contrastive:
            return None
        return self.guide_name if self.guide in SPEAKING else f"embeddings-{self.captions}".replace(":", ".")

    @field_validator("workspace")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        if re.match(r"[a-z][a-z0-9]+:/", value):  # a Path has made one slash of two
            raise ValueError(f"workspace = {value!r}: a folder is needed, URLs are not supported yet")
        return value

    @model_validator(mode="after")
    def _sections_agree(self) -> Experiment:
        kind = self.mask.kind
        for part in self.captions.split("+"):
            if caption_source(part) not in CAPTION_SOURCES and ":" not in part:
                raise ValueError(f"{choice_error('caption source', part, CAPTION_SOURCES)} Or module:ClassName.")
        if self.guide not in GUIDES and ":" not in self.guide:
            raise ValueError(f"{choice_error('guide', self.guide, GUIDES)} Or module:ClassName.")
        masked = self.objective.kind == "mae"  # ARVideo reads no mask
        if masked and kind in ("top-k", "bottom-k", "motion-vectors", "motion-box") and self.guide in UNRANKED:
            raise ValueError(f"mask.kind = {kind!r} ranks score maps, which guide = {self.guide!r} has not")
        motion = self.guide in MOTION or ":" in self.guide or self.mask.any_guide
        if masked and kind in ("motion-vectors", "motion-box") and not motion:
            raise ValueError(
                f"mask.kind = {kind!r} ranks motion, guide = {self.guide!r} scores something else: set guide to "
                f"{' or '.join(MOTION)}, or mask.any_guide = true if this is meant"
            )
        if self.guide == "motion-vectors" and self.shard.bframes:
            raise ValueError(
                "guide = 'motion-vectors' reads how far everything moved since the frame before: that needs "
                "shard.bframes = 0, or another guide of motion (optical-flow, flow-magnitude)"
            )
        if masked and kind == "optical-flow" and self.guide != "optical-flow":
            raise ValueError("mask.kind = 'optical-flow' carries a map along the flow: it needs guide = 'optical-flow'")
        if self.mask.text_share != (1.0, 1.0) and kind != "top-k":
            raise ValueError(f"mask.text_share mixes top-k with chance; mask.kind is {kind!r}")
        if self.clip.size % self.model.patch:
            raise ValueError(f"clip.size {self.clip.size} is not a multiple of model.patch {self.model.patch}")
        if self.clip.frames % self.model.tubelet:
            raise ValueError(f"clip.frames {self.clip.frames} is not a multiple of model.tubelet {self.model.tubelet}")
        grid = (self.clip.frames // self.model.tubelet, *2 * [self.clip.size // self.model.patch])
        cluster = self.arvideo.cluster
        if not masked and (any(map(int.__mod__, grid, cluster)) or grid == cluster):
            raise ValueError(
                f"arvideo.cluster = {list(cluster)} does not cut the clip's {' x '.join(map(str, grid))} tokens (time, "
                "rows, columns) into two or more equal parts: choose divisors of these numbers"
            )
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
