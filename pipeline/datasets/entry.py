"""What every list format yields, and the rules on paths that all of them share."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.media.video import UnreadableFile, VideoError
from pipeline.runtime.units import Row
from schemas.tables import failure, video_key

STAGE = "index"
MOST_CLASSES = 100_000  # a class index is below this: classes.json names every number up to the largest

# By its name a file is a video or it is not; what lies in folders next to videos is not tried.
# A csv names its files itself: there any extension goes.
VIDEOS = frozenset(
    {
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".f4v",
        ".flv",
        ".gif",
        ".ivf",
        ".m1v",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mkv",
        ".mov",
    }
    | {".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv"}
)


class OutsideRoot(VideoError):
    pass


class MissingFile(VideoError):
    """With what the list says of it: a test video that is lost may count as wrong."""

    def __init__(self, message: str, label: int | None = None, split: str = "") -> None:
        super().__init__(message)
        self.label, self.split = label, split


class BadName(VideoError):
    pass


class BadRow(VideoError):
    """A line of a list that does not say what it should."""


class ListedTwice(VideoError):
    """The same video, or part of one, with the same label and split as before."""


@dataclass(frozen=True)
class Entry:
    """One video or segment as its list names it; nothing of it has been opened yet."""

    path: str  # posix, relative to the data root
    label: int | None = None
    label_text: str | None = None
    split: str = ""
    start: float | None = None  # seconds
    end: float | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        for what, value in (("label", self.label_text), ("text", self.text)):
            if value is not None and printable(value) != value:
                raise BadName(f"the {what} is not UTF-8: {printable(value)!r}")

    @property
    def video_id(self) -> str:
        if self.start is None and self.end is None:
            return self.path
        return f"{self.path}#{_seconds(self.start or 0.0)}-{'' if self.end is None else _seconds(self.end)}"


@dataclass
class Listing:
    """Videos to probe, failures of the list itself (rows of schemas.tables.FAILURES), and what was ignored."""

    entries: list[Entry] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)
    lost: list[Row] = field(default_factory=list)  # labelled videos that are missing (rows of schemas.tables.LOST)
    ignored: Counter[str] = field(default_factory=Counter)  # by kind, such as ".txt"
    extra: list[str] = field(default_factory=list)  # videos that no list names
    classes: list[str] = field(default_factory=list)  # names by label, where the dataset says them
    groups: dict[str, dict[str, list[Any]]] = field(default_factory=dict)  # Epic-Kitchens' verbs and nouns

    def fail(self, name: str, error: VideoError, place: str = "") -> None:
        """`place` is where a list names it, such as "train.csv line 7"."""
        message = printable(f"{place}: {error}" if place else str(error))
        row = failure(printable(name), STAGE, type(error)(message))
        self.failures.append(row)
        if isinstance(error, MissingFile):
            self.lose(row["video_id"], error.label, error.split)

    def lose(self, video_id: str, label: int | None, split: str) -> None:
        """A video that a list names and that cannot be used; without a label it matters to nobody later."""
        if label is not None:
            self.lost.append({"key": video_key(video_id), "video_id": video_id, "label": label, "split": split})


def videos(root: Path, listing: Listing, *, follow: bool = False) -> Iterator[str]:
    """Paths of the files under `root` that are videos by name, sorted; the rest is counted in `listing`.

    Hidden files and folders are ignored without count. Links to folders are not followed, and links to files only
    within the root; with `follow` all are, once: what a link leads to that was there before is ignored.
    """
    found: list[str] = []

    def unreadable(error: OSError) -> None:
        folder = os.path.relpath(error.filename, root)
        listing.fail(folder, UnreadableFile(f"the folder cannot be read: {error.strerror}"))

    walked: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=unreadable, followlinks=follow):
        if follow and (real := os.path.realpath(folder)) in walked:
            subfolders.clear()  # a link back
            continue
        elif follow:
            walked.add(real)
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        listing.ignored["links to folders"] += 0 if follow else sum(not name.startswith(".") for name in links)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            kind = os.path.splitext(name)[1].lower()
            if kind in VIDEOS:
                found.append(Path(os.path.relpath(os.path.join(folder, name), root)).as_posix())
            else:
                listing.ignored[printable(kind) or "no extension"] += 1
    listing.ignored += Counter()  # drops zeros
    for path in sorted(found):
        try:
            check_path(root, path, follow=follow)
        except VideoError as error:
            listing.fail(path, error)
        else:
            yield path


def within(root: Path, name: str) -> str:
    """The posix path under `root` (resolved) of a file that a list names, relative to it or in full.

    Raises OutsideRoot. A full path may reach the root through links: a list often says /data where that is a link.
    """
    if "\0" in name:
        raise BadName("a path with a zero byte")
    if os.path.isabs(name):
        name = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
    path = Path(os.path.relpath(os.path.normpath(os.path.join(root, name)), root)).as_posix()
    if path.split("/")[0] == "..":
        raise OutsideRoot(f"leads out of the data folder {root}")
    return path if os.path.lexists(os.path.join(root, path)) else _spelled(root, path)


def _spelled(root: Path, path: str) -> str:
    r"""As the file's name is written on disk: é in one character or two, `\` of Windows for `/`; else as it was."""
    forms = [unicodedata.normalize(form, path) for form in ("NFC", "NFD")]
    for name in [*forms, *(form.replace("\\", "/") for form in (path, *forms))]:
        if name.split("/")[0] != ".." and os.path.lexists(os.path.join(root, os.path.normpath(name))):
            return os.path.normpath(name)
    return path


def check_path(root: Path, path: str, label: int | None = None, split: str = "", *, follow: bool = False) -> None:
    """Raises VideoError unless `path` names a file within `root` (resolved) in characters that tables can hold.

    Label and split are what a list says of it. `follow`: links may lead out of the root (index.follow_links).
    """
    if printable(path) != path:
        raise BadName(f"{printable(path)!r} is not UTF-8: rename the file")
    if "\0" in path:
        raise BadName("a path with a zero byte")
    real = os.path.realpath(root / path)
    if not follow and os.path.commonpath([root, real]) != str(root):
        raise OutsideRoot(f"leads out of the data folder, to {printable(real)} (index.follow_links = true allows it)")
    if not os.path.isfile(real):
        raise MissingFile("is missing" if not os.path.exists(real) else "is not a file", label, split)


def printable(name: str) -> str:
    r"""The name with bytes that are not UTF-8 written as \xNN; any other name as it is."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _seconds(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
