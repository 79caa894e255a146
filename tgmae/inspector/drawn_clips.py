"""A clip with its mask as the trainer draws it: by the trainer's own dataset, without its pixels where none are needed.

tests/tgmae/inspector/test_drawn_clips.py holds it to what the trainer's stream yields.

Shape suffixes: T frames of a clip, T' time slices, h x w the token grid, F scored frames, H x W a stored map's cells.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.registry import MASKS
from schemas.shards import ClipMeta
from schemas.stage import FILE
from schemas.toml import load_experiment
from schemas.workspace import Workspace
from tgmae.demo.clip_views import token_grid
from train.data.augment import Crop, centre_crop
from train.data.reading import Guidance, read_clip, read_guidance
from train.data.sampling import spread_frames
from train.data.stream import ClipDataset
from train.data.videos import Videos, open_videos
from train.masking.carried_map import speeds
from train.masking.masks import hidden_per_slice, share_at

CROPS = ("trainer", "centre")
EMPTY = "the guide has nothing for this video"


@dataclass(frozen=True)
class Wanted:
    """What is chosen on the page; the rest is the experiment's."""

    kind: str
    ratio: float
    share: float  # of the hidden tokens that scores choose (top-k)
    crop: str = "trainer"  # or centre: the middle clip, its middle square, as evaluations see a video
    seed: int = 0
    epoch: int = 0
    repeat: int = 0
    entry: int | None = None  # which caption's map; None: the one that the trainer draws


@dataclass(frozen=True)
class DrawnClip:
    meta: ClipMeta
    frames_T: NDArray[np.int64]
    crop: Crop
    hidden_THW: NDArray[np.bool_]
    scores_THW: NDArray[Any] | None  # float64 [T', h, w], in steps of the stored map; a flow's speed; None: no guide
    entry: int
    captions: list[str]  # untrusted


class Clips:
    """The videos of a workspace with their sidecars, opened once for all requests and again when they change."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._opened: dict[str | None, tuple[Any, Videos]] = {}
        self._lock = threading.Lock()

    def opened(self, guide: str | None) -> Videos:
        """Errors: UserError, see open_videos."""
        folders = [self.workspace.clips, *([self.workspace.guide(guide)] if guide else [])]
        mark = [(folder / FILE).stat().st_mtime_ns if (folder / FILE).is_file() else None for folder in folders]
        with self._lock:
            kept = self._opened.get(guide)
            if kept is None or kept[0] != mark:
                kept = self._opened[guide] = (mark, open_videos(self.workspace, guide))
        return kept[1]

    def meta(self, row: int) -> tuple[ClipMeta, bytes]:
        return read_clip(self.opened(None).clip_place(row))

    def frames_only(self, row: int) -> ClipMeta:
        """What reading a map needs to know of a clip, without reading the clip: its size stands for nothing."""
        name, frames = (self.opened(None).clips.column(name)[row].as_py() for name in ("video_id", "frames"))
        return ClipMeta(video_id=name, frames=frames, fps=1, width=1, height=1, label=None, label_text=None, split="")

    def guidance(self, guide: str, row: int, meta: ClipMeta) -> Guidance:
        """Errors: UserError where the guide has nothing for the video, or no maps at all."""
        sidecar = self.opened(guide).sidecar(guide)
        if not sidecar.entries(row):
            raise UserError(EMPTY)
        return read_guidance(sidecar, row, meta, ("scores.npy",))

    def draw(self, experiment: Experiment, row: int, guide: str | None, wanted: Wanted) -> DrawnClip:
        """What the trainer would make of the video at this row of the clips' index.

        guide: the folder of the guide that is looked at; None: a mask of chance, which needs none.
        Errors: UserError for a mask that the guide cannot give, or a guide without anything for this video.
        """
        place = self.opened(guide).clip_place(row)
        meta, _ = read_clip(place)
        grid, changed = token_grid(experiment), _changed(experiment, wanted)
        dataset = ClipDataset(self.opened(guide), changed, grid)
        draw = (wanted.seed, wanted.epoch, place.key)
        found = self.guidance(guide, row, meta) if guide else None
        if wanted.crop == "centre":
            clip = experiment.clip
            frames_T = spread_frames(meta.frames, frames=clip.frames, stride=clip.stride, views=1)[0]
            crop = centre_crop(meta.width, meta.height)
        else:
            frames_T = dataset.frames(meta, draw)
            crop = dataset.crop(meta.width, meta.height, (*draw, wanted.repeat))
        flowing = guide == "optical-flow"
        entry = 0 if found is None or flowing else dataset.entry(found, draw) if wanted.entry is None else wanted.entry
        if found is not None and not flowing and not 0 <= entry < found.entries:
            raise UserError(f"there is no map {entry}: the guide has {found.entries} for this video")
        needs = MASKS[wanted.kind].needs
        if needs != "shape" and (found is None or (needs == "flow") != flowing):
            raise UserError(why_not(wanted.kind, guide))
        ranked = found if needs != "shape" else None
        hidden_THW = dataset.hidden(ranked, entry, frames_T, crop, wanted.epoch, (*draw, wanted.repeat))
        scores_THW = None
        if found is not None and flowing:
            scores_THW = speeds(found.flow(frames_T, crop, grid))
        elif found is not None:
            scores_THW = found.scores(entry, frames_T, crop, grid)
        return DrawnClip(meta, frames_T, crop, hidden_THW, scores_THW, entry, found.meta.captions if found else [])


def why_not(kind: str, guide: str | None) -> str:
    """Why a kind of mask cannot be had of a guide; empty: it can."""
    needs = MASKS[kind].needs
    if needs == "flow" and guide != "optical-flow":
        return f"the mask {kind} carries a map along the flow: it needs the guide optical-flow"
    if needs == "scores" and (guide is None or guide == "optical-flow" or guide.startswith("embeddings-")):
        return f"the mask {kind} ranks score maps: choose a guide that has them"
    return ""


def _changed(experiment: Experiment, wanted: Wanted) -> Experiment:
    """Not validated again: of the sections only what masks and draws read is changed."""
    mask = experiment.mask.model_copy(
        update={"kind": wanted.kind, "ratio": wanted.ratio, "text_share": (wanted.share, wanted.share)}
    )
    pretrain = experiment.pretrain.model_copy(update={"seed": wanted.seed})
    return experiment.model_copy(update={"mask": mask, "pretrain": pretrain})


def as_the_run(experiment: Experiment, epoch: int | None = None) -> Wanted:
    """What a run draws in an epoch; by default in its last one."""
    mask, epochs = experiment.mask, experiment.optim.epochs
    epoch = epochs - 1 if epoch is None else epoch
    return Wanted(mask.kind, mask.ratio, share_at(epoch, epochs, mask.text_share), "trainer",
                  experiment.pretrain.seed, epoch)  # fmt: skip


def wanted_of(given: Mapping[str, str], experiment: Experiment) -> Wanted:
    """Of a query string; what is missing is the run's. Errors: UserError for what is no number, or out of range."""
    plain = as_the_run(experiment)

    def number(name: str, default: float, low: float, high: float) -> float:
        try:
            value = float(given.get(name, default))
        except ValueError:
            raise UserError(f"{name} is not a number") from None
        if not low <= value <= high:
            raise UserError(f"{name} {value:g} is not between {low:g} and {high:g}")
        return value

    kind, crop = given.get("kind", plain.kind), given.get("crop", plain.crop)
    if kind not in MASKS or crop not in CROPS:
        raise UserError(f"the masks are {', '.join(MASKS)}, the crops {', '.join(CROPS)}")
    entry = given.get("entry", "")
    return Wanted(
        kind=kind,
        ratio=round(number("ratio", plain.ratio, 0.01, 0.99), 4),
        share=round(number("share", plain.share, 0, 1), 4),
        crop=crop,
        seed=int(number("seed", plain.seed, -(2**31), 2**31)),
        epoch=int(number("epoch", plain.epoch, 0, 10**6)),
        repeat=int(number("repeat", 0, 0, 1000)),
        entry=None if entry in ("", "drawn") else int(number("entry", 0, 0, 10**6)),
    )


def run_names(workspace: Workspace) -> list[str]:
    """Of the runs with a config, the latest first."""
    found = [path.parent for path in (workspace.root / "runs").glob("[!.]*/config.toml")]
    return [path.name for path in sorted(found, key=lambda each: (-(each / "config.toml").stat().st_mtime, each.name))]


def chosen_run(workspace: Workspace, name: str | None) -> str | None:
    """The run of that name, else the latest; None: there are no runs. Errors: UserError for one that is missing."""
    names = run_names(workspace)
    if name is not None and name not in names:
        raise UserError(f"there is no run {name!r} in {workspace.root}: there are {', '.join(names) or 'none'}")
    return name or (names[0] if names else None)


def experiment_of(workspace: Workspace, name: str | None) -> Experiment:
    """Of a run, on this workspace wherever it was made; without a run the defaults, with a guide that is there."""
    config = workspace.run(name) / "config.toml" if name else Path()
    found = load_experiment(config) if name and config.is_file() else _default_experiment(workspace)
    return found.model_copy(update={"workspace": str(workspace.root)})


def _default_experiment(workspace: Workspace) -> Experiment:
    there = sorted(path.parent.name for path in (workspace.root / "guides").glob("[!.]*/stage.json"))
    values: dict[str, Any] = {"workspace": str(workspace.root)}
    text = next((name for name in there if name.startswith("text-")), None)
    other = next((name for name in ("motion-vectors", "flow-magnitude", "optical-flow") if name in there), None)
    if text is not None:
        values["captions"] = text.removeprefix("text-")
    elif other is not None:
        values |= {"guide": other, "mask": {"kind": "motion-vectors" if other == "flow-magnitude" else other}}
    try:
        return Experiment.model_validate(values)
    except ValueError:  # captions of a source of one's own
        return Experiment(workspace=str(workspace.root))


def hidden_in_words(experiment: Experiment, wanted: Wanted) -> str:
    t, h, w = token_grid(experiment)
    return f"{hidden_per_slice(wanted.ratio, h * w)} of {h * w} patches in each of {t} time slices"
