"""Questions to the index: a page of videos, one video with its neighbours in the list, failures, what may be chosen.

Everything that comes from the page is a parameter or chosen from a list here; nothing of it is put into SQL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

PAGE = 48  # videos
MOST_TEXT = 200  # characters of a search

SORTS = {  # name -> (label, what is sorted by, smallest first by default)
    "id": ("Name", "video.video_id", True),
    "words": ("Caption length", "said.words", False),
    "score": ("CLIP score, or motion", "guided.score", True),
    "entropy": ("Map entropy (flat maps)", "guided.entropy", False),
    "iou": ("Mask overlap with the object", "guided.iou", True),
    "hidden": ("Share of object hidden", "guided.hidden", True),
    "frames": ("Length in frames", "video.frames", False),
}
COVERAGE = {
    "": ("All videos", "1"),
    "clip": ("With a clip", "video.clip IS NOT NULL"),
    "no-clip": ("Without a clip", "video.clip IS NULL"),
    "captions": ("With captions of the set", "said.captions > 0"),
    "no-captions": ("Without captions of the set", "coalesce(said.captions, 0) = 0"),
    "maps": ("With score maps of the guide", "guided.maps > 0"),
    "no-maps": ("Without score maps of the guide", "coalesce(guided.maps, 0) = 0"),
    "failed": ("With a failure", "video.failures > 0"),
}


@dataclass(frozen=True)
class Asked:
    """What the page asks for: the query string, checked."""

    q: str = ""
    split: str = ""  # "": all; "-": those of no split
    label: int | None = None
    captions: str = ""  # a caption set
    guide: str = ""
    coverage: str = ""
    sort: str = "id"
    order: str = ""  # "up", "down"; "": the sort's own
    show: str = "frame"  # frame, map or mask: what the grid shows
    page: int = 0

    @property
    def up(self) -> bool:
        return SORTS[self.sort][2] if not self.order else self.order == "up"

    def query(self, **changes: Any) -> str:
        """The query string of a link; what is as it is anyway is left out."""
        wanted, plain = replace(self, **changes), Asked()
        fields = {name: value for name, value in vars(wanted).items() if value != vars(plain)[name]}
        return urlencode(fields)


@dataclass(frozen=True)
class Choices:
    """What there is to choose from."""

    splits: list[str]
    labels: list[tuple[int, str]]
    sources: list[str]
    guides: list[tuple[str, str]]  # (name, kind)
    known: bool  # the object's truth, for at least one video


def choices(base: sqlite3.Connection) -> Choices:
    splits = [row[0] for row in base.execute("SELECT DISTINCT split FROM video ORDER BY split")]
    named = "SELECT label, min(label_text) FROM video WHERE label IS NOT NULL GROUP BY label ORDER BY label LIMIT 5000"
    labels = [(row[0], row[1] or str(row[0])) for row in base.execute(named)]
    sources = [row[0] for row in base.execute("SELECT name FROM source ORDER BY id")]
    guides = [(row[0], row[1]) for row in base.execute("SELECT name, kind FROM guide ORDER BY id")]
    known = base.execute("SELECT 1 FROM guided WHERE iou IS NOT NULL LIMIT 1").fetchone() is not None
    return Choices(splits, labels, sources, guides, known)


def whole(given: Mapping[str, str], name: str, digits: int = 15) -> int | None:
    """A whole number of a query string; None where it is missing, or none, or longer."""
    value = given.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) <= digits else None


def asked(given: Mapping[str, str], there: Choices) -> Asked:
    """The query string of a page; what is unknown in it is left out."""
    names = [name for name, _ in there.guides]
    with_maps = [name for name, kind in there.guides if kind != "embeddings"]
    sort = given.get("sort", "")
    return Asked(
        q=given.get("q", "").strip()[:MOST_TEXT],
        split=given.get("split", ""),
        label=whole(given, "label", 9),
        captions=_one_of(given.get("captions"), there.sources),
        guide=_one_of(given.get("guide"), with_maps or names),
        coverage=_one_of(given.get("coverage"), ["", *COVERAGE]),
        sort=sort if sort in SORTS else "id",
        order=_one_of(given.get("order"), ["", "up", "down"]),
        show=_one_of(given.get("show"), ["frame", "map", "mask"]),
        page=whole(given, "page", 9) or 0,
    )


def _one_of(value: str | None, allowed: list[str]) -> str:
    """The value where it is allowed, else the first one that is."""
    return value if value in allowed else allowed[0] if allowed else ""


def count(base: sqlite3.Connection, wanted: Asked) -> int:
    tables, where, values = _from(replace(wanted, sort="id"))
    if "said." not in where and "guided." not in where:  # joins that would change no count
        tables = "video"
    return int(base.execute(f"SELECT count(*) FROM {tables} WHERE {where}", values).fetchone()[0])


def videos(base: sqlite3.Connection, wanted: Asked, *, first: int | None = None, most: int = PAGE) -> list[sqlite3.Row]:
    """A page of videos, each with its first caption of the set and what is measured of its maps."""
    tables, where, values = _from(wanted)
    by = SORTS[wanted.sort][1]
    # Without a value comes last in both directions, and each of the two has its index (catalogue.py).
    order = f"{by} DESC" if not wanted.up else by if by.startswith("video.") else f"coalesce({by}, 9e999)"
    offset = wanted.page * PAGE if first is None else first
    return base.execute(
        f"SELECT video.*, said.words AS words, said.captions AS captions, guided.maps AS maps, guided.score AS score, "
        "guided.entropy AS entropy, guided.hidden AS hidden, guided.iou AS iou, "
        "(SELECT text FROM caption WHERE caption.video = video.id ORDER BY text NOT LIKE :first_term ESCAPE '\\', "
        "source != (SELECT id FROM source WHERE name = :captions), number LIMIT 1) AS text "
        f"FROM {tables} WHERE {where} ORDER BY {order} LIMIT :most OFFSET :first",
        values | {"most": most, "first": offset},
    ).fetchall()


def _from(wanted: Asked) -> tuple[str, str, dict[str, Any]]:
    """The tables, the condition and its values. The table that is sorted by comes first, so that its index is used."""
    # A caption that was searched for is the one that is shown.
    values: dict[str, Any] = {"captions": wanted.captions, "guide": wanted.guide,
                              "first_term": _like((wanted.q.split() or [""])[0])}  # fmt: skip
    said = "said.source = (SELECT id FROM source WHERE name = :captions)"
    guided = "guided.guide = (SELECT id FROM guide WHERE name = :guide)"
    texts = f"LEFT JOIN said ON said.video = video.id AND {said}"
    maps = f"LEFT JOIN guided ON guided.video = video.id AND {guided}"
    by = SORTS[wanted.sort][1].partition(".")[0]
    where = [COVERAGE[wanted.coverage][1]]
    if by == "said" and wanted.captions:
        tables = f"said CROSS JOIN video ON video.id = said.video {maps}"
        where.append(said)
    elif by == "guided" and wanted.guide:
        tables = f"guided CROSS JOIN video ON video.id = guided.video {texts}"
        where.append(guided)
    else:
        tables = f"video {texts} {maps}"
    if wanted.split:
        where.append("video.split = :split")
        values["split"] = "" if wanted.split == "-" else wanted.split
    if wanted.label is not None:
        where.append("video.label = :label")
        values["label"] = wanted.label
    for place, term in enumerate(wanted.q.split()):
        name = f"term{place}"
        if len(term) >= 3:
            where.append(f"video.id IN (SELECT rowid FROM found WHERE found MATCH :{name})")
            values[name] = '"' + term.replace('"', '""').replace("\0", "") + '"'
        else:  # shorter than what the search knows
            values[name] = _like(term)
            like = f"LIKE :{name} ESCAPE '\\'"
            inside = " OR ".join(
                f"EXISTS (SELECT 1 FROM {table} WHERE {table}.video = video.id AND {table}.{column} {like})"
                for table, column in (("caption", "text"), ("failure", "message"))
            )
            where.append(f"(video.video_id {like} OR video.label_text {like} OR {inside})")
    return tables, " AND ".join(where), values


def _like(term: str) -> str:
    return "%" + term.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_") + "%"


def video(base: sqlite3.Connection, key: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = base.execute("SELECT * FROM video WHERE key = ?", (key,)).fetchone()
    return row


def keys_of(base: sqlite3.Connection, video_ids: list[str]) -> dict[str, str]:
    """By video_id, of those that are known."""
    marks = ", ".join("?" * len(video_ids))
    found = base.execute(f"SELECT video_id, key FROM video WHERE video_id IN ({marks})", video_ids)
    return {row[0]: row[1] for row in found}


def captions_of(base: sqlite3.Connection, number: int) -> dict[str, list[sqlite3.Row]]:
    """By caption set: number, text and seconds of each."""
    found: dict[str, list[sqlite3.Row]] = {}
    for row in base.execute("SELECT source.name AS source, number, text, time FROM caption JOIN source ON source.id = "
                            "caption.source WHERE video = ? ORDER BY source.id, number", (number,)):  # fmt: skip
        found.setdefault(row["source"], []).append(row)
    return found


def maps_of(base: sqlite3.Connection, number: int) -> list[sqlite3.Row]:
    """A row a guide: name, kind, maps, and what is measured of them."""
    return base.execute("SELECT guide.name, guide.kind, guided.* FROM guided JOIN guide ON guide.id = guided.guide "
                        "WHERE video = ? ORDER BY guide.id", (number,)).fetchall()  # fmt: skip


def failures_of(base: sqlite3.Connection, number: int) -> list[sqlite3.Row]:
    return base.execute("SELECT * FROM failure WHERE video = ?", (number,)).fetchall()


def measured(base: sqlite3.Connection) -> tuple[int, int]:
    """(score maps measured, of how many): of all guides."""
    left = base.execute("SELECT count(*) FROM guided WHERE measured = 0 AND maps > 0").fetchone()[0]
    total = base.execute("SELECT count(*) FROM guided WHERE maps > 0").fetchone()[0]
    return total - left, total
