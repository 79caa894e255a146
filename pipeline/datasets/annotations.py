"""What the formats of published datasets share: finding their annotation files, and the videos that these name."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.datasets.entry import BadRow, Listing, MissingFile, check_path, printable, videos
from schemas.errors import UserError
from schemas.foreign_text import composed, parsed_json


@dataclass(frozen=True)
class Source:
    """Where a listing comes from: `index` of the config, its paths resolved."""

    root: Path  # of the videos
    list: Path | None = None  # of csv; of epic55, what is for validation
    annotations: Path | None = None  # folder; None: the root
    split: int = 1  # of UCF101 and HMDB51
    val_participants: tuple[str, ...] = ()  # of Epic-Kitchens 55
    follow_links: bool = False  # out of the root

    @property
    def notes(self) -> Path:
        return self.annotations or self.root

    def find(self, *names: str, what: str) -> Path:
        """The first of these annotation files that is there, at the top of the folder or one level below it.

        Raises UserError that says which file is missing and where it is looked for.
        """
        found = self.look(*names)
        if found is None:
            raise UserError(
                f"{what}: no {' or '.join(names)} in {self.notes} or a folder in it: set index.annotations to the "
                "folder of the dataset's own annotation files (docs/datasets.md)"
            )
        return found

    def look(self, *names: str) -> Path | None:
        for name in names:
            for path in (self.notes / name, *sorted(self.notes.glob(f"*/{name}"))):
                if path.is_file():
                    return path
        return None


class Videos:
    """The video files under the root by name, so that a list may name them without folder or extension."""

    def __init__(self, source: Source, listing: Listing) -> None:
        self._root, self._listing, self._follow = source.root, listing, source.follow_links
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in videos(source.root, listing, follow=source.follow_links):
            self._by_stem[composed(Path(path).stem)].append(path)
        self._used: set[str] = set()

    def take(
        self,
        *stems: str,
        label: int | None,
        split: str,
        folder: str | None = None,
        others: Collection[str] = (),
    ) -> str:
        """The path of the first of these names that is there; of several files, the one in `folder`.

        Spaces and underscores in the folder's name are the same. A file in one of the `others` is another video of
        the same name. Raises MissingFile, with label and split, and BadRow when several files have the name and
        the folder does not distinguish them.
        """
        for stem in stems:
            paths = self._by_stem.get(composed(stem), [])
            if folder is not None:
                wanted = [path for path in paths if _folder(path) == composed(folder.replace(" ", "_"))]
                paths = wanted or [path for path in paths if _folder(path) not in others]
            if len(paths) > 1:
                raise BadRow(f"several files are called {stem}: {', '.join(paths[:3])}")
            if paths:
                self._used.add(paths[0])
                return paths[0]
        raise MissingFile(f"no video called {' or '.join(stems)} in {self._root}", label, split)

    def at(self, path: str, *, label: int, split: str) -> str:
        """The same for a list that names a path under the root. Raises VideoError."""
        check_path(self._root, path, label, split, follow=self._follow)
        self._used.add(Path(path).as_posix())
        return path

    def close(self) -> None:
        """What no list named becomes the listing's `extra`."""
        every = {path for paths in self._by_stem.values() for path in paths}
        self._listing.extra = sorted(every - self._used)


def _folder(path: str) -> str:
    return composed(Path(path).parent.name.replace(" ", "_"))


def read_json(path: Path, kind: type) -> Any:
    """Raises UserError when the file does not hold a JSON value of this type."""
    try:
        value = parsed_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def read_table(path: Path, *columns: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Place ("train.csv line 7") and cells of each row of a csv with a header that has these columns."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                found = printable(", ".join(reader.fieldnames or ()))[:200] or "nothing"
                raise UserError(f"{path}: no column {', '.join(missing)}; its first line is {found}")
            for row in reader:
                yield f"{path.name} line {reader.line_num}", {key: value or "" for key, value in row.items() if key}
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Place and text of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at odd characters of file names
        if line.strip():
            yield f"{path.name} line {number}", line.strip()


def whole(text: str | int, what: str, *, least: int = 0, most: int = 2**31 - 1) -> int:
    """Raises BadRow unless the text is a whole number between these, in plain digits."""
    if not re.fullmatch(r"-?[0-9]{1,18}", str(text).strip()):
        raise BadRow(f"the {what} {printable(str(text))[:80]!r} is not a whole number")
    value = int(text)
    if not least <= value <= most:
        raise BadRow(f"the {what} {value} is not between {least} and {most}")
    return value
