"""The inspector's index: an SQLite file, made from the tables of a workspace and kept outside it.

A row a video in `video` (those that failed to be indexed, too), a row a video and caption set in `said`, a row a video
and guide in `guided`. `found` is for searching: of ids, labels, captions and failures, any three letters in any script.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from schemas.config import SPEAKING
from schemas.errors import UserError
from schemas.stage import StageRecord, read_record
from schemas.tables import CAPTIONS, CLIP_INDEX, FAILURES, GUIDE_INDEX, MANIFEST, SKIPPED, read_table
from schemas.workspace import Workspace

VERSION = 1  # raise it when the tables below change: the index is then made again
BLOCK = 20_000  # rows between two reports
Say = Callable[[str, int, int], None]  # (what, done, of how many)

TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE video (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, video_id TEXT NOT NULL, label INTEGER, label_text TEXT,
    split TEXT NOT NULL, frames INTEGER, fps REAL, width INTEGER, height INTEGER, duration REAL, codec TEXT,
    bytes INTEGER, clip INTEGER, failures INTEGER NOT NULL DEFAULT 0
);  -- clip: its row in clips/index.parquet; null: it is not in the shards
CREATE TABLE source (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE caption (video INTEGER, source INTEGER, number INTEGER, text TEXT NOT NULL, time REAL);
CREATE TABLE said (source INTEGER, video INTEGER, captions INTEGER NOT NULL, words REAL,
    PRIMARY KEY (source, video)) WITHOUT ROWID;
CREATE TABLE guide (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, output TEXT NOT NULL);
CREATE TABLE guided (guide INTEGER, video INTEGER, maps INTEGER NOT NULL, score REAL, entropy REAL, hidden REAL,
    iou REAL, measured INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (guide, video)) WITHOUT ROWID;
CREATE TABLE failure (video INTEGER, folder TEXT NOT NULL, stage TEXT NOT NULL, error TEXT NOT NULL,
    message TEXT NOT NULL);
CREATE VIRTUAL TABLE found USING fts5 (text, content='', tokenize='trigram');
"""
INDEXES = """
CREATE INDEX video_by_id ON video (video_id);
CREATE INDEX video_by_split ON video (split, video_id);
CREATE INDEX video_by_label ON video (label, video_id);
CREATE INDEX video_by_frames ON video (frames);
CREATE INDEX caption_by_video ON caption (video, source, number);
CREATE INDEX said_by_words ON said (source, words);
CREATE INDEX said_by_words_up ON said (source, coalesce(words, 9e999));
CREATE INDEX failure_by_video ON failure (video);
CREATE INDEX failure_by_error ON failure (folder, error);
CREATE INDEX guided_left ON guided (guide, video) WHERE measured = 0 AND maps > 0;
""" + "".join(
    f"CREATE INDEX guided_{name} ON guided (guide, {name});"
    f"CREATE INDEX guided_{name}_up ON guided (guide, coalesce({name}, 9e999));"
    for name in ("score", "entropy", "hidden", "iou")
)


def cache_file(root: Path) -> Path:
    """Where the index of a workspace is kept: in the user's cache, else in the system's temporary folder."""
    name = f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:20]}.sqlite"
    for base in (os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", Path(tempfile.gettempdir())):
        folder = Path(base) / "tgmae" / "inspector"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder / name
    raise UserError("there is no folder to keep the inspector's index in: set XDG_CACHE_HOME to one")


def connect(path: Path, *, write: bool = False) -> sqlite3.Connection:
    """Read-only where nothing else is asked for."""
    mode = "rwc" if write else "ro"
    base = sqlite3.connect(f"file:{path.as_posix().replace('?', '%3f')}?mode={mode}", uri=True, timeout=30)
    base.row_factory = sqlite3.Row
    return base


def state(workspace: Workspace) -> str:
    """Changes when a stage of the workspace is built, replaced or removed; a few stat calls."""
    marks = [VERSION, str(workspace.root.resolve())]
    for folder in stage_folders(workspace):
        for name in ("stage.json", "failures.parquet", "manifest.parquet", "captions.parquet", "index.parquet"):
            try:
                found = (folder / name).stat()
            except OSError:
                continue
            marks += [folder.name, name, found.st_mtime_ns, found.st_size]
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()


def stage_folders(workspace: Workspace) -> list[Path]:
    """Of the stages that leave tables: manifest, clips, and every caption set, features and guide."""
    parents = [workspace.root / name for name in ("captions", "features", "guides")]
    inner = [path for parent in parents for path in sorted(parent.glob("[!.]*")) if path.is_dir()]
    return [folder for folder in (workspace.manifest, workspace.clips, *inner) if folder.is_dir()]


def is_current(path: Path, workspace: Workspace) -> bool:
    try:
        with closing(connect(path)) as base:
            row = base.execute("SELECT value FROM about WHERE name = 'state'").fetchone()
    except sqlite3.DatabaseError:
        return False
    return row is not None and row["value"] == state(workspace)


def build(path: Path, workspace: Workspace, say: Say) -> None:
    """Writes the index of a workspace to `path`, whole or not at all; what was measured of a guide that is still the
    same is taken over from the index before.

    Errors: UserError when the workspace has no manifest, or a table of it cannot be read.
    """
    before = state(workspace)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.unlink(missing_ok=True)
    try:
        with closing(connect(partial, write=True)) as base:
            base.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + TABLES)
            _Filling(base, workspace, say).all()
            say("indexes", 0, 1)
            base.executescript(INDEXES)
            _take_over(base, path)
            base.execute("INSERT INTO about VALUES ('state', ?)", (before,))
            base.commit()
            base.executescript("PRAGMA journal_mode = WAL;")
        for each in (path.with_name(path.name + ending) for ending in ("-wal", "-shm")):
            each.unlink(missing_ok=True)
        os.replace(partial, path)
    finally:
        for ending in ("", "-wal", "-shm"):
            partial.with_name(partial.name + ending).unlink(missing_ok=True)


class _Filling:
    """Puts the tables of a workspace into those of the index."""

    def __init__(self, base: sqlite3.Connection, workspace: Workspace, say: Say) -> None:
        self.base, self.workspace, self.say = base, workspace, say
        self.number: dict[str, int] = {}  # of a video, by key
        self.texts: dict[int, list[str]] = {}  # of a video, for searching

    def all(self) -> None:
        self._videos()
        names = [path.name for path in stage_folders(self.workspace) if path.parent.name == "captions"]
        for place, name in enumerate(name for name in names if read_record(self.workspace.captions(name))):
            self._captions(place, name)
        guides = [path for path in stage_folders(self.workspace) if path.parent.name == "guides"]
        guides.sort(key=lambda path: not path.name.startswith("text-"))  # the first one is shown where none is chosen
        for place, folder in enumerate(folder for folder in guides if read_record(folder)):
            self._guide(place, folder, read_record(folder))
        for folder in stage_folders(self.workspace):
            if (folder / "failures.parquet").is_file():
                self._failures(folder)
        self._put("search", "found (rowid, text)", ((video, "\n".join(said)) for video, said in self.texts.items()),
                  len(self.texts))  # fmt: skip

    def _videos(self) -> None:
        path = self.workspace.manifest / "manifest.parquet"
        if not path.is_file():
            raise UserError(
                f"{self.workspace.root} is not a workspace: it has no manifest (tgmae index DATA --out "
                f"{self.workspace.root})"
            )
        names = ("key", "video_id", "label", "label_text", "split", "frames", "fps", "width", "height", "duration",
                 "codec", "bytes")  # fmt: skip
        columns = dict(zip(names, _columns(path, MANIFEST, names), strict=True))
        clips: dict[str, int] = {}
        if read_record(self.workspace.clips):
            (keys,) = _columns(self.workspace.clips / "index.parquet", CLIP_INDEX, ("key",))
            clips = {key: row for row, key in enumerate(keys)}
        order = sorted(range(len(columns["key"])), key=columns["video_id"].__getitem__)

        def rows() -> Iterator[tuple[Any, ...]]:
            for number, row in enumerate(order, 1):
                key = columns["key"][row]
                self.number[key] = number
                label = columns["label_text"][row]
                self.texts[number] = [columns["video_id"][row], key, *([label] if label else [])]
                yield (number, *(columns[name][row] for name in names), clips.get(key))

        self._put("videos", f"video (id, {', '.join(names)}, clip)", rows(), len(order))

    def _captions(self, place: int, name: str) -> None:
        self.base.execute("INSERT INTO source VALUES (?, ?)", (place, name))
        path = self.workspace.captions(name) / "captions.parquet"
        keys, numbers, texts, times = _columns(path, CAPTIONS, ("key", "caption", "text", "time"))
        counts: dict[int, list[int]] = {}

        def rows() -> Iterator[tuple[Any, ...]]:
            for key, number, text, time in zip(keys, numbers, texts, times, strict=True):
                video = self.number.get(key)
                if video is not None:
                    counts.setdefault(video, []).append(len(text.split()))
                    self.texts[video].append(text)
                    yield video, place, number, text, time

        self._put(f"captions of {name}", "caption (video, source, number, text, time)", rows(), len(keys))
        said = ((place, video, len(words), sum(words) / len(words)) if (words := counts.get(video)) else
                (place, video, 0, None) for video in self.number.values())  # fmt: skip
        self._put(f"captions of {name}", "said (source, video, captions, words)", said, len(self.number))

    def _guide(self, place: int, folder: Path, record: StageRecord | None) -> None:
        assert record is not None
        kind = str(
            record.config.get("guide")
            or next((kind for kind in SPEAKING if folder.name.startswith(f"{kind}-")), folder.name)
        )
        self.base.execute("INSERT INTO guide VALUES (?, ?, ?, ?)", (place, folder.name, kind, record.output))
        keys, maps = _columns(folder / "index.parquet", GUIDE_INDEX, ("key", "maps"))
        found = dict(zip(keys, maps, strict=True))
        rows = ((place, video, found.get(key, 0)) for key, video in self.number.items())
        self._put(f"maps of {folder.name}", "guided (guide, video, maps)", rows, len(self.number))

    def _failures(self, folder: Path) -> None:
        name = folder.relative_to(self.workspace.root).as_posix()
        wanted = ("key", "video_id", "stage", "error", "message")
        for key, video_id, stage, error, message in zip(*_columns(folder / "failures.parquet", FAILURES, wanted),
                                                        strict=True):  # fmt: skip
            if error in SKIPPED:
                continue
            if key not in self.number:  # it never came as far as the manifest
                number = self.number[key] = len(self.number) + 1
                self.base.execute("INSERT INTO video (id, key, video_id, split) VALUES (?, ?, ?, '')",
                                  (number, key, video_id))  # fmt: skip
                self.texts[number] = [video_id, key]
                for table, column in (("said", "captions"), ("guided", "maps")):
                    parent = {"said": "source", "guided": "guide"}[table]
                    self.base.execute(f"INSERT INTO {table} ({parent}, video, {column}) SELECT id, ?, 0 FROM {parent}",
                                      (number,))  # fmt: skip
            video = self.number[key]
            self.texts[video].append(f"{error}: {message}")
            self.base.execute("INSERT INTO failure VALUES (?, ?, ?, ?, ?)", (video, name, stage, error, message))
            self.base.execute("UPDATE video SET failures = failures + 1 WHERE id = ?", (video,))

    def _put(self, what: str, into: str, rows: Iterable[tuple[Any, ...]], total: int) -> None:
        """Inserts rows, in blocks; `into` is ours, never a user's."""
        columns = into.count(",") + 1
        statement = f"INSERT INTO {into} VALUES ({', '.join('?' * columns)})"
        done, block = 0, []
        for row in rows:
            block.append(row)
            if len(block) == BLOCK:
                self.base.executemany(statement, block)
                done, block = done + len(block), []
                self.say(what, done, total)
        self.base.executemany(statement, block)
        self.say(what, done + len(block), total)


def _take_over(base: sqlite3.Connection, before: Path) -> None:
    """Measurements are of a guide's output: where that is the same, so are they."""
    if not before.is_file():
        return
    try:
        base.commit()
        base.execute("ATTACH DATABASE ? AS before", (f"file:{before.as_posix()}?mode=ro",))
        base.execute(
            "UPDATE guided SET (score, entropy, hidden, iou, measured) = (old.score, old.entropy, old.hidden, old.iou, "
            "old.measured) FROM guide, before.guide AS old_guide, video, before.video AS old_video, "
            "before.guided AS old WHERE guide.id = guided.guide AND old_guide.name = guide.name AND "
            "old_guide.output = guide.output AND video.id = guided.video AND old_video.key = video.key AND "
            "old.guide = old_guide.id AND old.video = old_video.id AND old.measured = 1"
        )
        base.execute("INSERT INTO about SELECT name, value FROM before.about WHERE name = 'conditions'")
        base.commit()
        base.execute("DETACH DATABASE before")
    except sqlite3.DatabaseError:  # of another version, or damaged: measured again
        base.rollback()


def _columns(path: Path, schema: Any, names: tuple[str, ...]) -> list[list[Any]]:
    table = read_table(path, schema)
    return [table.column(name).to_pylist() for name in names]
