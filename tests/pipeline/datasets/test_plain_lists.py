"""List formats: what they take for a video, a label and a split, and what they refuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.datasets import Listing, Source
from pipeline.datasets.entry import Entry
from schemas.errors import UserError
from schemas.registry import FORMATS
from tests.pipeline.datasets.listings import reasons, touch


def csv(root: Path, text: str | bytes) -> Listing:
    path = root.parent / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return FORMATS["csv"](Source(root.resolve(), path))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return touch(tmp_path / "data", "a.mp4", "b/c.mp4", "b/d.dat")


def test_folders_are_classes(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "d", "run/a.mp4", "run/x/b.MKV", "Walk/c.avi", "loose.mp4", "run/a.txt", "run/b", ".h/x.mp4"
    )
    listing = FORMATS["folder"](Source(root))
    assert listing.entries == [
        Entry("Walk/c.avi", 0, "Walk"),
        Entry("loose.mp4"),
        Entry("run/a.mp4", 1, "run"),
        Entry("run/x/b.MKV", 1, "run"),
    ]
    assert listing.ignored == {".txt": 1, "no extension": 1} and not listing.failures


def test_folders_of_splits(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "train/run/a.mp4", "validation/sit/b.mp4", "test/c.mp4")
    assert FORMATS["folder"](Source(root)).entries == [
        Entry("test/c.mp4", split="test"),
        Entry("train/run/a.mp4", 0, "run", "train"),
        Entry("validation/sit/b.mp4", 1, "sit", "val"),
    ]
    touch(root, "other/d.mp4")
    with pytest.raises(UserError, match=r"holds test, train, validation next to 1 other folders \(other\)"):
        FORMATS["folder"](Source(root))


def test_splits_in_capitals_are_splits(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "Train/run/a.mp4", "TEST/sit/b.mp4", "Training/sit/c.mp4")
    found = [(entry.label_text, entry.split) for entry in FORMATS["folder"](Source(root)).entries]
    assert found == [("sit", "test"), ("run", "train"), ("sit", "train")]


def test_one_split_among_classes_is_a_class_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = touch(tmp_path / "d", "train/a.mp4", "plane/b.mp4")  # vehicles
    assert [entry.label_text for entry in FORMATS["folder"](Source(root)).entries] == ["plane", "train"]
    assert "train next to 1 other folders (plane): taken as classes" in capsys.readouterr().err


def test_files_have_no_labels(root: Path) -> None:
    listing = FORMATS["files"](Source(root))
    assert listing.entries == [Entry("a.mp4"), Entry("b/c.mp4")] and listing.ignored == {".dat": 1}


def test_links_stay_within_the_root(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside", "x.mp4")
    root = touch(tmp_path / "data", "a.mp4")
    (root / "in.mp4").symlink_to(root / "a.mp4")
    (root / "out.mp4").symlink_to(outside / "x.mp4")
    (root / "gone.mp4").symlink_to(root / "nothing.mp4")
    (root / "folder").symlink_to(outside)
    listing = FORMATS["files"](Source(root))
    assert [entry.path for entry in listing.entries] == ["a.mp4", "in.mp4"]
    assert reasons(listing).keys() == {"out.mp4", "gone.mp4"}
    assert reasons(listing)["out.mp4"].startswith("OutsideRoot: leads out of the data folder")
    assert reasons(listing)["gone.mp4"].startswith("MissingFile: is missing")
    assert listing.ignored == {"links to folders": 1}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "a.mp4", "grün.mp4")
    with open(os.fsencode(root) + b"/caf\xe9.mp4", "wb"):
        pass
    listing = FORMATS["files"](Source(root))
    assert [entry.path for entry in listing.entries] == ["a.mp4", "grün.mp4"]
    assert reasons(listing) == {"caf\\xe9.mp4": "BadName: 'caf\\\\xe9.mp4' is not UTF-8: rename the file"}
    listed = csv(root, b"path,label\ncaf\xe9.mp4,x\ngr\xc3\xbcn.mp4,x\na.mp4,\xff\n")
    assert [entry.path for entry in listed.entries] == ["grün.mp4"]
    assert list(reasons(listed)) == ["caf\\xe9.mp4", "a.mp4"]


def test_csv_in_full(root: Path) -> None:
    listing = csv(
        root,
        "\ufeffpath, label,start,end,text,split,more\r\n"
        'a.mp4,walk,,,"a man, walking",train,x\r\n'
        "\r\n"
        "./b/c.mp4,run,1.5,3,,validation,\r\n"
        "b/c.mp4,,3,,,,\r\n"
        f"{root}/b/d.dat,run,0,2.25,,,\r\n",
    )
    assert not listing.failures
    assert listing.entries == [
        Entry("a.mp4", 1, "walk", "train", text="a man, walking"),
        Entry("b/c.mp4", 0, "run", "val", 1.5, 3.0),
        Entry("b/c.mp4", start=3.0),
        Entry("b/d.dat", 0, "run", end=2.25),
    ]
    assert [entry.video_id for entry in listing.entries] == [
        "a.mp4", "b/c.mp4#1.5-3", "b/c.mp4#3-", "b/d.dat#0-2.25"
    ]  # fmt: skip


def test_full_paths_may_lead_through_a_link_to_the_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    assert csv(root, f"path,label\n{tmp_path}/alias/b/c.mp4,x\n").entries == [Entry("b/c.mp4", 0, "x")]


def test_csv_of_class_indices(root: Path) -> None:
    assert csv(root, "path,label\na.mp4,7\nb/c.mp4,10\n").entries == [Entry("a.mp4", 7), Entry("b/c.mp4", 10)]
    texts = csv(root, "path,label\na.mp4,7\nb/c.mp4,x\n").entries
    assert texts == [Entry("a.mp4", 0, "7"), Entry("b/c.mp4", 1, "x")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("../list.csv,x,,,", "OutsideRoot: list.csv line 2: leads out of the data folder"),
        ("/etc/passwd,x,,,", "OutsideRoot: list.csv line 2: leads out of the data folder"),
        ("no.mp4,x,,,", "MissingFile: list.csv line 2: is missing"),
        ("b,x,,,", "MissingFile: list.csv line 2: is not a file"),
        (",x,,,", "BadRow: list.csv line 2: the path is empty"),
        ("a.mp4,x,3,2,", "BadRow: list.csv line 2: end 2 s is not after start 3 s"),
        ("a.mp4,x,,0,", "BadRow: list.csv line 2: end 0 s is not after start 0 s"),
        ("a.mp4,x,one,2,", "BadRow: list.csv line 2: start 'one' is not a number of seconds"),
        ("a.mp4,x,-1,2,", "BadRow: list.csv line 2: start -1 is not a time"),
        ("a.mp4,x,nan,2,", "BadRow: list.csv line 2: start nan is not a time"),
        ("a.mp4,x,,,holdout", "BadRow: list.csv line 2: split 'holdout' is none of train"),
        ("a.mp4,x", "BadRow: list.csv line 2: 2 cells, the header has 5"),
        ("a.mp4,x,,,,,,", "BadRow: list.csv line 2: 8 cells, the header has 5"),
    ],
)
def test_bad_rows_fail_alone(root: Path, row: str, reason: str) -> None:
    listing = csv(root, f"path,label,start,end,split\n{row}\nb/c.mp4,y,,,\n")
    assert [entry.path for entry in listing.entries] == ["b/c.mp4"]
    (found,) = reasons(listing).values()
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column 'path' and no column 'label'. Its first line is nothing"),
        ("file,label\na.mp4,x\n", "no column 'path'. Its first line is file, label"),
        ("a.mp4 3\n", "expected a header such as path,label"),
        ("path,label\n", "lists no videos"),
        ("path,label,label\na.mp4,1,2\n", "named twice"),
        ('path,label\n"a.mp4,1\n', "not csv"),
        ("path,label\na.mp4,100000\n", "label 100000 is too large for a class index"),
        (f"path,label\na.mp4,{'9' * 5000}\n", "too large for a class index"),
    ],
)
def test_lists_that_are_no_lists(root: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        csv(root, text)


def test_one_odd_label_renumbers_nothing(root: Path) -> None:
    listing = csv(root, "path,label\na.mp4,0\nb/c.mp4,1.0\nb/d.dat,-1\na.mp4#,nan\n")
    assert [(entry.path, entry.label, entry.label_text) for entry in listing.entries] == [
        ("a.mp4", 0, None), ("b/c.mp4", 1, None)
    ]  # fmt: skip
    assert reasons(listing)["b/d.dat"] == (
        "BadRow: list.csv line 4: label '-1' is not a class index, as the other labels are"
    )


def test_nan_is_no_class_and_numbers_sort_as_numbers(root: Path) -> None:
    listing = csv(root, "path,label\na.mp4,10.0\nb/c.mp4,2.0\nb/d.dat,NaN\n")
    assert [entry.label for entry in listing.entries] == [10, 2, None]
    named = csv(root, "path,label,split\na.mp4,walk,Train\nb/c.mp4,nan,TEST\nb/d.dat,run,\n")
    assert [(entry.label_text, entry.label, entry.split) for entry in named.entries] == [
        ("walk", 1, "train"), (None, None, "test"), ("run", 0, "")
    ]  # fmt: skip
    assert named.classes == ["run", "walk"]


def test_names_are_found_as_they_are_spelled_on_disk(tmp_path: Path) -> None:
    """é in one character or two; Windows' separator."""
    apart, one = "Zoe\u0308.mp4", "caf\u00e9.mp4"
    root = touch(tmp_path / "d", f"x/{apart}", one)
    names = ["x/Zo\u00eb.mp4", "cafe\u0301.mp4", "x\\Zo\u00eb.mp4"]
    listing = csv(root, "path,label\n" + "".join(f"{name},a\n" for name in names))
    assert [entry.path for entry in listing.entries] == [f"x/{apart}", one, f"x/{apart}"]
    assert not listing.failures
    evil = csv(root, "path,label\n..\\list.csv,a\n/a\0b,a\n")
    assert not evil.entries and len(evil.failures) == 2


def test_links_lead_outside_where_they_are_allowed_to(tmp_path: Path) -> None:
    outside = touch(tmp_path / "cache", "x.mp4", "deep/y.mp4")
    root = touch(tmp_path / "data", "a.mp4")
    (root / "out.mp4").symlink_to(outside / "x.mp4")
    (root / "folder").symlink_to(outside / "deep")
    (outside / "deep" / "back").symlink_to(root)
    for name in ("files", "folder"):
        listing = FORMATS[name](Source(root, follow_links=True))
        assert [entry.path for entry in listing.entries] == ["a.mp4", "folder/y.mp4", "out.mp4"]
        assert not listing.failures and not listing.ignored
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\nout.mp4,x\n")
    assert FORMATS["csv"](Source(root, listed, follow_links=True)).entries == [Entry("out.mp4", 0, "x")]
    (failed,) = FORMATS["csv"](Source(root, listed)).failures
    assert "index.follow_links = true allows it" in failed["message"]
