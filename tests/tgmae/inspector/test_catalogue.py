"""The index: every video and every failure is found, searched, filtered and sorted, by an index."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from schemas.tables import CAPTIONS, read_table, video_key, write_table
from schemas.workspace import Workspace
from tests.tgmae.inspector.conftest import LOST, described
from tgmae.inspector import catalogue
from tgmae.inspector import catalogue_query as query


@pytest.fixture(scope="module")
def base(looked_at: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("catalogue") / "index.sqlite"
    catalogue.build(path, looked_at, lambda *told: None)
    with closing(catalogue.connect(path)) as found:
        yield found


def ids(base: sqlite3.Connection, **given: str) -> list[str]:
    asked = query.asked(given, query.choices(base))
    rows = query.videos(base, asked)
    assert len(rows) == query.count(base, asked)
    return [row["video_id"] for row in rows]


def test_every_video_is_there_also_one_that_was_never_indexed(base: sqlite3.Connection) -> None:
    found = ids(base)
    assert len(found) == 15 and LOST in found and found == sorted(found)
    assert LOST in ids(base, coverage="failed") and len(ids(base, coverage="failed")) == 2


@pytest.mark.parametrize(
    ("text", "count"),
    [("fast", 7), ("FAST 003", 1), ("панд", 0), ("танцует", 1), ("熊猫", 1), ("熊", 1), ("no file", 1), ("TooTall", 1),
     ("<script>", 1), ('"', 1), ("%", 0), ("a' OR 1=1 --", 0)],
)  # fmt: skip
def test_search_knows_names_labels_captions_and_failures(base: sqlite3.Connection, text: str, count: int) -> None:
    assert len(ids(base, q=text)) == count


def test_filters(base: sqlite3.Connection) -> None:
    assert len(ids(base, split="test")) == 6 and len(ids(base, label="1")) == 7
    assert len(ids(base, coverage="no-captions")) == 2 and len(ids(base, coverage="captions")) == 13
    assert len(ids(base, coverage="no-maps", guide="text-blip2")) == 2
    assert len(ids(base, coverage="no-maps", guide="motion-vectors")) == 1
    assert ids(base, coverage="no-clip") == [LOST]


def test_what_has_no_value_comes_last_in_both_directions(base: sqlite3.Connection) -> None:
    for order in ("up", "down"):
        asked = query.asked({"sort": "words", "order": order}, query.choices(base))
        words = [row["words"] for row in query.videos(base, asked)]
        known = [each for each in words if each is not None]
        assert words[-2:] == [None, None] and known == sorted(known, reverse=order == "down")


@pytest.mark.parametrize("sort", query.SORTS)
@pytest.mark.parametrize("order", ["up", "down"])
def test_no_sort_sorts_all_videos_for_a_page(base: sqlite3.Connection, sort: str, order: str) -> None:
    plans: list[str] = []

    class Explained:
        def execute(self, statement: str, values: Any) -> Any:
            plan = base.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            plans.extend(row["detail"] for row in plan if not row["parent"])  # a video's own captions are few
            return base.execute(statement, values)

    query.videos(Explained(), query.asked({"sort": sort, "order": order}, query.choices(base)))  # type: ignore[arg-type]
    assert plans and not any("TEMP B-TREE FOR ORDER BY" in each for each in plans), plans


def test_it_is_made_again_when_the_workspace_changes_and_keeps_what_was_measured(tmp_path: Path) -> None:
    workspace, path = described(tmp_path), tmp_path / "index.sqlite"
    catalogue.build(path, workspace, lambda *told: None)
    assert catalogue.is_current(path, workspace)
    with closing(catalogue.connect(path, write=True)) as base:
        base.execute("UPDATE guided SET score = 0.5, measured = 1 WHERE guide = 0 AND maps > 0")
        base.commit()
    folder = workspace.captions("blip2")
    rows = read_table(folder / "captions.parquet", CAPTIONS).to_pylist()
    write_table(folder / "captions.parquet", [{**row, "text": "a walrus"} for row in rows], CAPTIONS)
    assert not catalogue.is_current(path, workspace)
    catalogue.build(path, workspace, lambda *told: None)
    with closing(catalogue.connect(path)) as base:
        assert len(ids(base, q="walrus")) == 13
        assert base.execute("SELECT count(*) FROM guided WHERE score = 0.5").fetchone()[0] == 13
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    workspace, path = described(tmp_path), tmp_path / "index.sqlite"
    path.write_bytes(b"no database" * 100)
    assert not catalogue.is_current(path, workspace)
    catalogue.build(path, workspace, lambda *told: None)
    with closing(catalogue.connect(path)) as base:
        assert query.video(base, video_key(LOST)) is not None
