"""Which labelled videos a classifier learns from, and which it is judged by."""

import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.config import Experiment
from schemas.errors import UserError, hint
from schemas.stage import present
from schemas.tables import CLIP_INDEX, LOST, MANIFEST, read_table
from schemas.workspace import Workspace
from train.data.videos import Videos

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Section = Literal["finetune", "probe", "retrieve"]
TEST_SPLITS = ("test", "val")  # the first that has labelled videos


def with_test_split(experiment: Experiment, section: Section) -> Experiment:
    """The experiment with the section's test_split filled in, where it names none: see TEST_SPLITS."""
    options = getattr(experiment, section)
    if options.test_split:
        return experiment
    index = present(Workspace(Path(experiment.workspace)).clips) / "index.parquet"
    labelled: set[str] = set()
    if index.is_file():
        clips = read_table(index, CLIP_INDEX).select(["label", "split"])
        labelled = set(clips.filter(clips.column("label").is_valid()).column("split").unique().to_pylist())
    split = next((name for name in TEST_SPLITS if name in labelled), TEST_SPLITS[0])
    return experiment.model_copy(update={section: options.model_copy(update={"test_split": split})})


def labelled_split(
    videos: Videos, train_split: str, test_split: str, test_share: float, *, section: str = "probe"
) -> tuple[Videos, Bools]:
    """The labelled videos of the two splits, and which of them are for training, bool [S].

    Where the list names no splits at all, each class gives `test_share` of its videos, in order of their
    keys (which are hashes, so as good as random), to the test, but keeps one for training.
    section: of the config that the three options are in, for messages.
    Errors: UserError when there are no labels, only one class, or nothing in one of the splits.
    """
    splits = np.asarray([str(split) for split in videos.strings("split")])
    labelled = videos.column("label") >= 0
    if not labelled.any():
        raise UserError(
            f"none of the {len(videos)} videos has a label: there are no classes to learn (index formats folder, csv)"
        )
    if (splits == "").all():
        videos = videos.where(labelled)
        train = ~held_out(videos.all_keys(), videos.column("label"), test_share)
    else:
        used = labelled & ((splits == train_split) | (splits == test_split))
        train = splits[used] == train_split
        for name, found in ((train_split, train.any()), (test_split, (~train).any())):
            if not found:
                counts = ", ".join(
                    f"{split!r}: {int((splits[labelled] == split).sum())}" for split in np.unique(splits).tolist()
                )
                raise UserError(
                    f"no labelled video of the split {name!r}; there are {counts}: set {section}.train_split and "
                    f"{section}.test_split.{hint(name, map(str, np.unique(splits).tolist()))}"
                )
        videos = videos.where(used)
    if len(np.unique(videos.column("label"))) < 2:
        raise UserError(f"all {len(videos)} labelled videos are of one class: there is nothing to classify")
    if train.all():
        raise UserError(f"{section}.test_share {test_share} of so few videos a class is none: raise it or add videos")
    return videos, train


def held_out(keys: list[str], labels: NDArray[Any], share: float, group: NDArray[Any] | None = None) -> Bools:
    """Of each class the first `share` in order of their keys, rounded, but never all of them: bool [S].

    group: a number of each video. Then whole groups are taken, in order of their first keys, until each class has given
    its share or none can be taken without a class being left with nothing.
    """
    classes, class_S = np.unique(labels, return_inverse=True)
    left = np.bincount(class_S, minlength=len(classes))
    due = np.minimum((share * left + 0.5).astype(int), left - 1)
    together: dict[int, list[int]] = {}
    for row in sorted(range(len(keys)), key=keys.__getitem__):
        together.setdefault(row if group is None else int(group[row]), []).append(row)
    chosen = np.zeros(len(keys), bool)
    for rows in together.values():
        taken = np.bincount(class_S[rows], minlength=len(classes))
        touched = taken > 0
        if (due[touched] > 0).any() and (left[touched] > taken[touched]).all():
            chosen[rows] = True
            left -= taken
            due -= taken
    return chosen


def groups(video_ids: list[str], expression: str) -> Ints:
    """A number of each video, equal where `expression` captures the same of video_id: int64 [S].

    That is what its parentheses capture or, where it has none, the whole match; a video that it does not fit is alone.
    Errors: UserError when it fits none.
    """
    matches = [re.search(expression, name) for name in video_ids]
    if not any(matches):
        raise UserError(
            f"retrieve.group = {expression!r} fits no video_id, such as {video_ids[0]!r}: it is searched for anywhere "
            "in the path under the data folder"
        )
    return _numbers(
        (name,) if match is None else ("group", *(match.groups() or match.group(0, 0)))
        for name, match in zip(video_ids, matches, strict=True)
    )


def recordings(videos: Videos, expression: str) -> Ints:
    """Which videos are of one recording: by retrieve.group where it is set, else segments of one file are."""
    names = [str(name) for name in videos.strings("video_id")]
    return groups(names, expression) if expression else _numbers(name.partition("#")[0] for name in names)


def _numbers(names: Iterable[Hashable]) -> Ints:
    every = list(names)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(every))}
    return np.asarray([numbers[name] for name in every], np.int64)


def absent_videos(videos: Videos, split: str) -> list[dict[str, Any]]:
    """The labelled videos of a split that the dataset's lists have and these, all of that split, have not.

    Rows with key, video_id and label: of the manifest, and of what was lost when it was made. None where there is no
    manifest, or the lists name no splits.
    """
    known, rows = set(videos.all_keys()), []
    for name, schema in (("manifest.parquet", MANIFEST), ("lost.parquet", LOST)):
        path = videos.workspace.manifest / name
        if path.is_file():
            rows += read_table(path, schema).select(LOST.names).to_pylist()
    return [row for row in rows if row["split"] == split and row["label"] is not None and row["key"] not in known]
