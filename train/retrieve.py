"""Zero-shot retrieval: are the nearest neighbours by a frozen encoder's features of the same class?

    python -m train retrieve work/demo.toml

R@k is the share of query videos of whose k nearest by cosine one is of their class. The queries are the test videos;
the gallery is the other test videos (`r@k`, leave one out) or the training videos (`train_r@k`). The paper does not say
which its Table 3 means (docs/probe_and_retrieval.md), so both are there. With `retrieve.group` both are also counted
without the videos of the query's own group (`other_groups_...`). Captions: train/evaluation/text_retrieval.py.

Shape suffixes: S videos, Q queries, G gallery, N neighbours, D width of the features.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from schemas.config import Experiment
from schemas.foreign_text import shown
from schemas.replacement import rebuilding
from schemas.stage import StageRecord, current_record
from schemas.tables import write_table
from schemas.workspace import Workspace
from train.data.splits import Bools, groups, labelled_split, with_test_split
from train.data.videos import Videos, open_videos
from train.engine.record import finish
from train.evaluation.frozen_encoder import FrozenEncoder, missing_videos
from train.evaluation.neighbours import KS, Neighbours, nearest, recalls
from train.evaluation.results import FILE as RESULT
from train.evaluation.results import Evaluation, write_result
from train.evaluation.text_retrieval import text_recalls
from train.evaluation.video_features import Features
from train.specs import retrieve_spec

Ints = NDArray[np.int64]
NEIGHBOURS = "neighbours.parquet"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # of the query, a test video
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("gallery", pa.string(), nullable=False),  # "test" or "train"
        pa.field("neighbours", pa.list_(pa.string()), nullable=False),  # video_id, the nearest first, at most 10
        pa.field("labels", pa.list_(pa.int32()), nullable=False),  # theirs
        pa.field("cosines", pa.list_(pa.float32()), nullable=False),
    ]
)


def run_retrieve(experiment: Experiment) -> StageRecord:
    """Retrieval by the encoder that the experiment judges, and by the same one untrained; returns at once when current.

    Leaves result.json, neighbours.parquet and stage.json in runs/<name>/retrieve, the features in runs/<name>/features.
    Errors: UserError when there are no weights, the labels or splits do not make a test, retrieve.group fits no
    video_id, or captions are asked for and missing.
    """
    started = time.perf_counter()
    experiment = with_test_split(experiment, "retrieve")
    spec, options = retrieve_spec(experiment), experiment.retrieve
    record = current_record(spec)
    if record is not None:
        return record
    frozen = FrozenEncoder(experiment, spec, options)
    sidecar = spec.config.get("text")
    videos = open_videos(Workspace(Path(experiment.workspace)), sidecar)
    videos, train = labelled_split(
        videos, options.train_split, options.test_split, options.test_share, section="retrieve"
    )
    group_S = groups([str(name) for name in videos.strings("video_id")], options.group) if options.group else None
    search = Search(videos, train, group_S, chunk=options.chunk, device=frozen.device)
    features = frozen.features(videos)
    missing = missing_videos("retrieve", options, videos, train, features.read_S)
    metrics, found = search(features, len(missing.wrong))
    if options.untrained:
        others = frozen.features(videos, untrained=True)
        wrong = missing_videos("retrieve", options, videos, train, others.read_S).wrong
        metrics |= {f"{name}_untrained": value for name, value in search(others, len(wrong))[0].items()}
    counts = {
        "train": int(train.sum()), "test": int((~train).sum()) + missing.counts["absent"],
        "classes": len(np.unique(search.label_S)), **missing.counts,
    }  # fmt: skip
    warnings = [*missing.warnings, *(text for each in found for text in search.warnings(each))]
    if sidecar is not None:
        chosen = ~train & features.read_S
        told = text_recalls(frozen, videos.where(chosen), features.features_SD[chosen], sidecar)
        metrics, counts, warnings = metrics | told.metrics, counts | told.counts, warnings + told.warnings
    for text in warnings:
        print(f"retrieve: {shown(text)}", file=sys.stderr)
    print("retrieve: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()), file=sys.stderr)

    seconds = time.perf_counter() - started
    with rebuilding(spec.folder) as folder:
        write_table(folder / NEIGHBOURS, [row for each in found for row in search.rows(each)], SCHEMA)
        write_result(folder, experiment, Evaluation(
            kind="retrieve", checkpoint=frozen.checkpoint, dataset=spec.inputs["clips"],
            metrics=metrics, views=frozen.views, counts=counts, warnings=warnings, seconds=seconds,
        ))  # fmt: skip
        files = (RESULT, NEIGHBOURS)
        return finish(spec, folder / RESULT, files=files, counts=counts, info={"metrics": metrics}, seconds=seconds)


@dataclass(frozen=True)
class Found:
    """The neighbours of the test videos in a gallery; rows are numbers of videos."""

    gallery: Literal["test", "train"]
    row_Q: Ints
    row_G: Ints
    neighbours: Neighbours


class Search:
    """Asks for the neighbours of the test videos, among one another and among the training videos."""

    def __init__(self, videos: Videos, train: Bools, group_S: Ints | None, *, chunk: int, device: torch.device) -> None:
        self.label_S = videos.column("label").astype(np.int64)
        self._videos, self._train, self._chunk, self._device = videos, train, chunk, device
        # A video is never its own neighbour: apart from the others of its group, or from itself alone.
        self._apart = {"": np.arange(len(videos)), **({} if group_S is None else {"other_groups_": group_S})}

    def __call__(self, features: Features, wrong: int) -> tuple[dict[str, float], list[Found]]:
        """R@k in all ways, and the neighbours with nothing but the query itself left out; wrong: queries without
        features that count."""
        metrics: dict[str, float] = {}
        kept = []
        asked = np.flatnonzero(~self._train & features.read_S)
        galleries: tuple[Literal["test", "train"], ...] = ("test", "train")
        for name, apart_S in self._apart.items():
            for gallery in galleries:
                rows = asked if gallery == "test" else np.flatnonzero(self._train & features.read_S)
                neighbours = nearest(
                    features.features_SD[asked], features.features_SD[rows], max(KS), chunk=self._chunk,
                    device=self._device, groups=(apart_S[asked], apart_S[rows]),
                )  # fmt: skip
                found = Found(gallery, asked, rows, neighbours)
                prefix = name + ("train_" if gallery == "train" else "")
                metrics |= recalls(self._hits(found), wrong, prefix)
                if not name:
                    kept.append(found)
        return metrics, kept

    def warnings(self, found: Found) -> list[str]:
        label_Q, label_G = self.label_S[found.row_Q], self.label_S[found.row_G]
        others_Q = np.bincount(label_G)[label_Q] > 1 if found.gallery == "test" else np.isin(label_Q, label_G)
        told = []
        if not others_Q.all():
            which = {"test": "no other test video", "train": "no training video"}[found.gallery]
            labels = np.unique(label_Q[~others_Q]).tolist()
            told.append(f"{which} of the classes {labels}: their {int((~others_Q).sum())} queries have no hit there")
        if len(found.row_G) - (found.gallery == "test") < max(KS):
            told.append(f"there are only {len(found.row_G)} {found.gallery} videos to retrieve from: R@{max(KS)} says "
                        "little")  # fmt: skip
        return told

    def rows(self, found: Found) -> Iterator[dict[str, Any]]:
        """Rows of neighbours.parquet."""
        ids, keys = self._videos.strings("video_id"), self._videos.all_keys()
        for query, index_N, cosine_N in zip(found.row_Q, *found.neighbours, strict=True):
            near = found.row_G[index_N[index_N >= 0]]
            yield {
                "key": keys[query], "video_id": ids[query], "label": self.label_S[query], "gallery": found.gallery,
                "neighbours": [ids[row] for row in near], "labels": self.label_S[near].tolist(),
                "cosines": cosine_N[: len(near)].tolist(),
            }  # fmt: skip

    def _hits(self, found: Found) -> Bools:
        index_QN = found.neighbours.index_QN
        same_QN = self.label_S[found.row_G][index_QN] == self.label_S[found.row_Q][:, None]
        return np.asarray(same_QN & (index_QN >= 0))
