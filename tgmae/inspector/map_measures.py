"""What is measured of every score map, in the background: the inspector's sorts by quality come from here.

score     text: the mean, over scored frames and captions, of the best patch's cosine with the caption (the "CLIP
          score" of `tgmae captions stats`); motion and flow: the mean motion, pixels per frame or step
entropy   of a frame's scores above its least, as shares: 1 says nothing (all patches alike), 0 points at one patch
iou       where the truth is known: of as many patches as the object covers with the object (docs/results.md)
hidden    likewise: the share of the object's patches that top-k hides at the run's ratio
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas.config import Experiment
from schemas.errors import UserError
from tgmae.demo.clip_views import token_grid
from tgmae.demo.mask_accuracy import object_iou
from tgmae.inspector.catalogue import connect
from tgmae.inspector.drawn_clips import Clips, Wanted
from tgmae.inspector.known_objects import object_of
from train.data.reading import Array, Guidance
from train.masking.masks import hidden_per_slice, top_k

BLOCK = 64  # videos between two commits
log = logging.getLogger("tgmae.inspector")


@dataclass(frozen=True)
class Measured:
    score: float
    entropy: float
    hidden: float | None = None
    iou: float | None = None


def entropy(stored_EFHW: Array) -> float:
    """Mean over maps and frames of the entropy of a frame's scores above its least, in units of log(patches)."""
    flat = stored_EFHW.reshape(-1, stored_EFHW.shape[2] * stored_EFHW.shape[3]).astype(np.float64)
    if flat.shape[1] < 2:
        return 1.0
    above = flat - flat.min(1, keepdims=True)
    sums = above.sum(1, keepdims=True)
    share = np.where(sums > 0, above / np.where(sums > 0, sums, 1), 1 / flat.shape[1])
    logs = np.log(np.where(share > 0, share, 1))
    return float(np.clip(-(share * logs).sum(1) / np.log(flat.shape[1]), 0, 1).mean())


def score(found: Guidance, kind: str) -> float:
    """See the top of this file."""
    stored, meta = found.stored(), found.meta
    scale, offset = (np.asarray(values)[:, None, None, None] for values in (meta.scale, meta.offset))
    real_EFHW = stored * scale + offset
    if kind == "optical-flow":
        return float(np.hypot(real_EFHW[0], real_EFHW[1]).mean())
    if meta.captions:
        return float(real_EFHW.max(axis=(2, 3)).mean())
    return float(real_EFHW.mean())


def measure(clips: Clips, row: int, guide: tuple[str, str], experiment: Experiment, truth: Path | None) -> Measured:
    """guide: (folder, kind). Errors: UserError for a sample that cannot be read."""
    found = clips.guidance(guide[0], row, clips.meta(row)[0] if truth else clips.frames_only(row))
    plain = Measured(score(found, guide[1]), entropy(found.stored()))
    if truth is None or guide[1] == "optical-flow":
        return plain
    mask = Wanted("random", experiment.mask.ratio, 1.0, "centre", entry=0)
    grid, drawn = token_grid(experiment), clips.draw(experiment, row, guide[0], mask)
    object_THW = object_of(drawn, truth, grid)
    if object_THW is None or not object_THW.any():
        return plain
    maps = [found.scores(entry, drawn.frames_T, drawn.crop, grid) for entry in range(found.entries)]
    k = hidden_per_slice(experiment.mask.ratio, grid[1] * grid[2])
    hidden = np.mean([top_k(scores_THW, k)[object_THW].mean() for scores_THW in maps])
    iou = np.mean([object_iou(scores_THW, object_THW) for scores_THW in maps])
    return Measured(plain.score, plain.entropy, float(hidden), float(iou))


class Measuring(threading.Thread):
    """Measures what is not measured yet, guide by guide; what is done is kept in the index."""

    def __init__(self, path: Path, clips: Clips, experiment: Experiment, truth: Path | None) -> None:
        super().__init__(name="measuring", daemon=True)
        self.path, self.clips, self.experiment, self.truth = path, clips, experiment, truth
        self.ended = threading.Event()  # set from outside: stop soon

    def run(self) -> None:
        try:
            with closing(connect(self.path, write=True)) as base:
                self._forget_other_conditions(base)
                ranked = "SELECT id, name, kind FROM guide WHERE kind != 'embeddings' ORDER BY id"
                guides = base.execute(ranked).fetchall()
                base.execute("UPDATE guided SET measured = 1 WHERE guide IN (SELECT id FROM guide WHERE kind = "
                             "'embeddings')")  # fmt: skip
                base.commit()
                for number, name, kind in map(tuple, guides):
                    while not self.ended.is_set() and self._block(base, number, (name, kind)):
                        pass
        except Exception:  # a page without these sorts is better than none; the log says what is wrong
            log.exception("measuring the score maps ended early")

    def _block(self, base: sqlite3.Connection, number: int, guide: tuple[str, str]) -> int:
        rows = base.execute(
            "SELECT guided.video, video.clip FROM guided JOIN video ON video.id = guided.video WHERE guided.guide = ? "
            "AND guided.measured = 0 AND guided.maps > 0 LIMIT ?", (number, BLOCK),
        ).fetchall()  # fmt: skip
        done = []
        for video, clip in map(tuple, rows):
            if self.ended.is_set():
                return 0
            try:
                found = measure(self.clips, clip, guide, self.experiment, self.truth) if clip is not None else None
            except (UserError, OSError, ValueError) as error:
                log.warning("%s of clip %s is not measured: %s", guide[0], clip, error)
                found = None
            values = (found.score, found.entropy, found.hidden, found.iou) if found else (None,) * 4
            done.append((*values, number, video))
        base.executemany(
            "UPDATE guided SET score = ?, entropy = ?, hidden = ?, iou = ?, measured = 1 WHERE guide = ? AND video = ?",
            done,
        )
        base.commit()
        return len(rows)

    def _forget_other_conditions(self, base: sqlite3.Connection) -> None:
        """What is hidden of an object depends on the run's grid and ratio."""
        clip, model = self.experiment.clip, self.experiment.model
        now = json.dumps([str(self.truth), self.experiment.mask.ratio, clip.frames, clip.stride, clip.size, model.patch,
                          model.tubelet])  # fmt: skip
        before = base.execute("SELECT value FROM about WHERE name = 'conditions'").fetchone()
        if self.truth is not None and (before is None or before[0] != now):
            base.execute("UPDATE guided SET measured = 0")
        base.execute("INSERT OR REPLACE INTO about VALUES ('conditions', ?)", (now,))
        base.commit()
