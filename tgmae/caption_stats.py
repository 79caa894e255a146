"""`tgmae captions`: what a caption set is like, and how two of them differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from schemas.errors import UserError
from schemas.foreign_text import shown
from schemas.shards import dequantize, guide_meta, npy_array
from schemas.stage import StageRecord, required_record
from schemas.tables import CAPTIONS, CHANGES, FAILURES, GUIDE_INDEX, read_table
from schemas.workspace import Workspace, shard_name

Item = TypeVar("Item")
SHOWN = 5  # examples, and reasons of failure
WORDS = 12  # most frequent ones
SCORED = 500  # videos, at most, whose maps are read; evenly spaced
STOP = frozenset(  # too frequent to tell anything
    ("a", "an", "and", "are", "as", "at", "by", "for", "from", "has", "in", "is", "it", "its", "of", "on", "or",
     "that", "the", "there", "this", "to", "with")
)  # fmt: skip


@dataclass(frozen=True)
class CaptionSet:
    name: str
    record: StageRecord
    texts: dict[str, list[str]]  # of a video, by id
    failures: Counter[str]  # by class of the error

    @property
    def all(self) -> list[str]:
        return [text for texts in self.texts.values() for text in texts]


def load(workspace: Workspace, name: str) -> CaptionSet:
    """Raises UserError when there is no such set, or it is not complete."""
    folder = workspace.captions(name)
    record = required_record(folder, f"tgmae caption {workspace.root} --source {name}")
    texts: dict[str, list[str]] = {}
    for row in read_table(folder / "captions.parquet", CAPTIONS).to_pylist():
        texts.setdefault(row["video_id"], []).append(row["text"])
    failed = read_table(folder / "failures.parquet", FAILURES).to_pylist()
    return CaptionSet(name, record, texts, Counter(row["error"] for row in failed))


def stats(workspace: Workspace, name: str | None = None) -> Iterator[str]:
    """A block of lines for the set of that name, or for every complete one.

    Raises UserError where there is none.
    """
    names = [name] if name else sorted(path.parent.name for path in (workspace.root / "captions").glob("*/stage.json"))
    if not names:
        raise UserError(f"{workspace.root} has no caption set: run `tgmae caption {workspace.root}` first")
    for each in names:
        yield from _described(workspace, load(workspace, each))


def _described(workspace: Workspace, found: CaptionSet) -> Iterator[str]:
    texts, videos, failed = found.all, len(found.texts), sum(found.failures.values())
    yield shown(f"{found.name}: {_settings(found.record)}")
    share, each = videos / (videos + failed), len(texts) / videos
    yield _line(
        "coverage", f"{videos} of {videos + failed} videos ({share:.1%}), {len(texts)} captions, {each:.1f} a video"
    )
    if failed:
        yield _line("failed", ", ".join(f"{count} {error}" for error, count in found.failures.most_common(SHOWN)))
    words = [len(text.split()) for text in texts]
    low, middle, high = np.percentile(words, [5, 50, 95])
    yield _line("length", f"{np.mean(words):.1f} words (5 % {low:.0f}, median {middle:.0f}, 95 % {high:.0f})")
    repeated = 1 - len(set(texts)) / len(texts)
    within = sum(len(said) - len(set(said)) for said in found.texts.values()) / len(texts)
    yield _line("duplicates", f"{repeated:.1%} of the captions repeat another, {within:.1%} one of their own video")
    said, count = Counter(texts).most_common(1)[0]
    if count > 1:
        yield _line("most frequent", f"{count} times: {said}")
    frequent = ", ".join(f"{word} {number}" for word, number in Counter(_content(texts)).most_common(WORDS))
    yield _line("words", f"{len(set(_words(texts)))} different; {frequent}")
    yield from _cleaned(workspace.captions(found.name))
    yield from _scored(workspace, found.name)
    for video in _spread(sorted(found.texts), SHOWN):
        yield _line("example", f"{video}: {' | '.join(found.texts[video])}")


def _cleaned(folder: Path) -> Iterator[str]:
    if (folder / "changes.parquet").is_file():
        rows = read_table(folder / "changes.parquet", CHANGES).to_pylist()
        steps = Counter(step for row in rows for step in row["steps"].split("+"))
        said = ", ".join(f"{count} {step}" for step, count in steps.most_common())
        yield _line("cleaned", f"{len(rows)} captions" + (f" ({said})" if said else ""))


def _scored(workspace: Workspace, name: str) -> Iterator[str]:
    """The CLIP score of a caption: over the scored frames, the mean of the best patch's cosine."""
    folder = workspace.guide(f"text-{name}")
    if not (folder / "stage.json").is_file():
        return
    scores = clip_scores(folder)
    if len(scores):
        low, high = np.percentile(scores, [5, 95])
        how = f"best patch of a frame, mean over frames; {len(scores)} captions of {folder.name}"
        yield _line("CLIP score", f"{np.mean(scores):.3f} (5 % {low:.3f}, 95 % {high:.3f}; {how})")


def clip_scores(folder: Path) -> np.ndarray:
    """A score for each caption of up to SCORED videos of a text guide, float64 [captions]."""
    from pipeline.runtime.tars import read_sample

    rows = _spread(read_table(folder / "index.parquet", GUIDE_INDEX).to_pylist(), SCORED)
    found: list[float] = []
    for row in rows:
        with open(folder / shard_name(row["shard"]), "rb") as tar:
            sample = read_sample(tar, row["offset"], row["length"], row["key"])
        if "scores.npy" not in sample:
            continue
        meta = guide_meta(sample["json"], row["key"])
        stored_CFHW = npy_array(sample["scores.npy"])
        for stored_FHW, scale, offset in zip(stored_CFHW, meta.scale, meta.offset, strict=True):
            found.append(float(dequantize(stored_FHW.max(axis=(1, 2)), scale, offset).mean()))
    return np.array(found)


def diff(workspace: Workspace, first: str, second: str) -> Iterator[str]:
    """What two sets have in common and where they differ. Raises UserError when one of them is missing."""
    a, b = load(workspace, first), load(workspace, second)
    both = sorted(a.texts.keys() & b.texts.keys())
    yield shown(f"{first}: {_settings(a.record)}")
    yield shown(f"{second}: {_settings(b.record)}")
    yield _line("videos", f"{len(both)} in both, {len(a.texts) - len(both)} only in {first}, "
                          f"{len(b.texts) - len(both)} only in {second}")  # fmt: skip
    if not both:
        return
    same = sum(a.texts[video] == b.texts[video] for video in both)
    yield _line("the same", f"{same} of {len(both)} videos have the same captions")
    overlaps = [_overlap(a.texts[video], b.texts[video]) for video in both]
    yield _line("overlap", f"{np.mean(overlaps):.2f} of a video's words, on average (Jaccard, without stop words)")
    lengths = [np.mean([len(text.split()) for video in both for text in each.texts[video]]) for each in (a, b)]
    yield _line("length", f"{lengths[0]:.1f} words in {first}, {lengths[1]:.1f} in {second}")
    shares = [_shares([text for video in both for text in each.texts[video]]) for each in (a, b)]
    for name, mine, other in ((first, shares[0], shares[1]), (second, shares[1], shares[0])):
        more = sorted(mine, key=lambda word: (other.get(word, 0.0) - mine[word], word))[:WORDS]
        yield _line(f"more in {name}", ", ".join(word for word in more if mine[word] > other.get(word, 0.0)) or "-")
    differing = [video for video in both if a.texts[video] != b.texts[video]]
    for video in _spread(differing, SHOWN):
        yield shown(video)
        yield _line(first, " | ".join(a.texts[video]))
        yield _line(second, " | ".join(b.texts[video]))


def _settings(record: StageRecord) -> str:
    """What determines the set, on one line; digests and long texts are left out."""
    shown = {name: value for name, value in record.config.items() if name not in ("content", "prompts")}
    if isinstance(shown.get("weights"), str):
        del shown["weights"]
    return ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in shown.items())


def _line(name: str, text: str) -> str:
    return f"  {shown(name):<12} {shown(text)}"


def _words(texts: Sequence[str]) -> list[str]:
    words = (word.strip(".,;:!?\"'()[]").casefold() for text in texts for word in text.split())
    return [word for word in words if word]


def _content(texts: Sequence[str]) -> list[str]:
    return [word for word in _words(texts) if word not in STOP]


def _shares(texts: Sequence[str]) -> dict[str, float]:
    counts = Counter(_content(texts))
    return {word: count / counts.total() for word, count in counts.items()}


def _overlap(a: Sequence[str], b: Sequence[str]) -> float:
    mine, other = set(_content(a)), set(_content(b))
    return len(mine & other) / len(mine | other) if mine | other else 1.0


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly spaced."""
    if len(items) <= count:
        return list(items)
    return [items[(2 * n + 1) * len(items) // (2 * count)] for n in range(count)]
