"""Where the named object truly is, where that is known: the embedded world, or a folder of truth of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.captioners.label_words import in_words
from pipeline.world.truth import load_truth
from schemas.errors import UserError
from schemas.stage import read_record
from schemas.workspace import Workspace
from tgmae.demo.clip_views import View
from tgmae.demo.mask_accuracy import object_patches
from tgmae.inspector.drawn_clips import DrawnClip
from train.data.augment import resample_map
from train.masking.masks import top_k


def truth_folder(workspace: Workspace, given: Path | None = None) -> Path | None:
    """As given, else next to the videos of an embedded world. Errors: UserError where what is given is no folder."""
    if given is not None:
        if not given.is_dir():
            raise UserError(f"{given} is not a folder of truth: it has a .npz for each video, as `tgmae world` writes")
        return given
    try:
        record = read_record(workspace.manifest)
    except UserError:
        return None
    truth = Path(str(record.info.get("data", ""))) / "truth" if record is not None else Path()
    return truth if record is not None and (truth / "world.json").is_file() else None


def object_of(drawn: DrawnClip, truth: Path | None, grid: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    """bool [T', h, w], the patches that it covers by at least half; None: it is not known. Names are untrusted."""
    if truth is None:
        return None
    file = (truth / drawn.meta.video_id).with_suffix(".npz")
    if not file.resolve().is_relative_to(truth.resolve()) or not file.is_file():
        return None
    view = View("", drawn.meta, drawn.frames_T, drawn.crop, [], np.empty(0), None, b"")
    try:
        return object_patches(view, truth, grid)
    except (ValueError, KeyError, IndexError, OSError):  # of another video, or no truth at all
        return None


def movement(drawn: DrawnClip, truth: Path | None) -> float:
    """How far the object's middle moves within a time slice, in patches, at most; 0 where it is not known."""
    if truth is None or not (truth / drawn.meta.video_id).with_suffix(".npz").is_file():
        return 0.0
    t, h, w = drawn.hidden_THW.shape
    visible_THW = load_truth((truth / drawn.meta.video_id).with_suffix(".npz"))[drawn.frames_T].astype(np.float64)
    covered = resample_map(visible_THW, drawn.crop, (4 * h, 4 * w)).reshape(t, -1, 4 * h, 4 * w)
    total = covered.sum((2, 3))
    if (total == 0).any() or covered.shape[1] < 2:
        return 0.0
    rows, columns = (np.arange(4 * side) / 4 for side in (h, w))
    middle = np.stack([(covered.sum(3) @ rows) / total, (covered.sum(2) @ columns) / total], -1)
    return float(np.linalg.norm(middle[:, -1] - middle[:, 0], axis=-1).max())


def what_stands_out(drawn: DrawnClip, object_THW: NDArray[np.bool_] | None, truth: Path | None = None) -> list[str]:
    """Why a mask is as it is, in words: what one sees when one looks for it."""
    said, hidden = [], drawn.hidden_THW
    label, caption = drawn.meta.label_text, drawn.captions[drawn.entry] if drawn.entry < len(drawn.captions) else ""
    label = in_words(label) if label else ""
    words = [word for word in label.casefold().split() if len(word) > 2]
    if caption and words and not any(word in caption.casefold() for word in words):
        said.append(f"The caption “{caption}” has no word of the label “{label}”.")
    scores = drawn.scores_THW
    if object_THW is not None and not object_THW.any():
        said.append("The named object covers no patch of this crop by half: it is too small here, or cropped away.")
    elif object_THW is not None:
        count, gone = int(object_THW.sum()), int((hidden & object_THW).sum())
        said.append(f"The named object covers {count} of {object_THW.size} patches; {gone} of them are hidden "
                    f"({gone / count:.0%}), next to {hidden[~object_THW].mean():.0%} of the rest.")  # fmt: skip
        if scores is not None:
            best = top_patches(scores, object_THW)
            off = int((best & ~object_THW).sum())
            on, beside = scores[object_THW].mean(), scores[~object_THW].mean()
            said.append(f"Of the {count} best-scored patches, as many as the object covers, {off} lie beside it; "
                        f"mean score on it {on:.0f}, beside it {beside:.0f} of 255.")  # fmt: skip
        moved = movement(drawn, truth)
        if moved >= 1:
            far = f"by up to {moved:.1f} patches"
            said.append(f"The object moves {far} within a time slice: one mask cannot fit all of its frames.")
        if count <= 4 * len(object_THW):
            said.append("The object is small: a patch more or less is a large part of its overlap.")
    if scores is not None:
        spread = float(scores.max() - scores.min())
        if spread < 40:
            said.append(f"The map is nearly flat in this crop: its scores differ by {spread:.0f} of 255.")
        ties = len(scores.reshape(-1)) - len(np.unique(scores))
        if ties > scores.size // 2:
            said.append("More than half of the scores tie: ties are broken by position, not by content.")
    return said


def top_patches(scores_THW: NDArray[np.float64], object_THW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """In each time slice as many of the best patches as the object covers there."""
    slices = zip(scores_THW, object_THW, strict=True)
    return np.concatenate([top_k(scores_HW[None], int(object_HW.sum())) for scores_HW, object_HW in slices])
