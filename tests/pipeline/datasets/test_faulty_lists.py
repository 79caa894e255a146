"""Annotations of published datasets that are missing, broken or hostile: each is named, and costs no other row."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets import Listing, Source
from schemas.errors import UserError
from schemas.registry import FORMATS
from schemas.tables import FAILURES, read_table, write_table
from tests.pipeline.datasets.listings import reasons, touch, write

KINETICS = "label,youtube_id,time_start,time_end,split\n"
EPIC = ("participant_id", "video_id", "narration", "start_timestamp", "stop_timestamp", "verb", "verb_class", "noun",
        "noun_class")  # fmt: skip


def listed(tmp_path: Path, name: str, files: list[str], notes: dict[str, Any]) -> Listing:
    """Read, with its failures through the table that keeps them."""
    root = touch(tmp_path / "v", *files)
    for file, content in notes.items():
        write(tmp_path / "notes" / file, content)
    listing = FORMATS[name](Source(root, annotations=tmp_path / "notes"))
    write_table(tmp_path / "failures.parquet", listing.failures, FAILURES)
    assert read_table(tmp_path / "failures.parquet", FAILURES).to_pylist() == listing.failures
    return listing


@pytest.mark.parametrize("name", ["ssv2", "kinetics", "videomae", "ucf101", "hmdb51", "diving48", "epic55", "epic100"])
def test_missing_annotations_are_named(tmp_path: Path, name: str) -> None:
    root = touch(tmp_path / "v", "a.mp4")
    with pytest.raises(UserError, match=rf"{name}: no .*index\.annotations"):
        FORMATS[name](Source(root))


@pytest.mark.parametrize(
    ("name", "notes", "said"),
    [
        ("ssv2", {"labels.json": "{"}, r"labels\.json cannot be read as JSON"),
        ("ssv2", {"labels.json": "[]"}, "holds a list, expected a dict"),
        ("ssv2", {"labels.json": {"A": "0", "B": "x"}}, r"the number of 'B', 'x' is not a whole number; expected such"),
        ("ssv2", {"labels.json": {"A": "0", "B": "²"}}, "is not a whole number"),
        ("ssv2", {"labels.json": {"A": "0", "B": "2"}}, "classes are not numbered 0 to 1"),
        ("ucf101", {"classInd.txt": "Archery 1\n"}, r"classInd\.txt line 1: the class 'Archery' is not a whole number"),
        ("ucf101", {"classInd.txt": "1 A\n3 B\n"}, "classes are not numbered 1 to 2"),
        ("kinetics", {"train.csv": "a.mp4 0\n"},
         "no column youtube_id, time_start, time_end, label; its first line is a.mp4 0"),
        ("kinetics", {"train.csv": "youtube_id,time_start,time_end\n"}, "no column label"),
        ("kinetics", {"k400_train.csv": KINETICS, "k600_train.csv": KINETICS},
         r"has k400_train\.csv, k600_train\.csv: set index\.annotations to a folder of one version"),
        ("diving48", {"Diving48_vocab.json": []}, r"diving48: no Diving48_V2_train\.json"),
        ("epic100", {"EPIC_100_train.csv": ",".join(EPIC) + "\n"}, r"epic100: no EPIC_100_validation\.csv"),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_read_are_named(tmp_path: Path, name: str, notes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        listed(tmp_path, name, ["a.mp4"], notes)


@pytest.mark.parametrize(
    ("label", "said"),
    [(1.5, "'1.5' is not a whole number"), (True, "'True' is not a whole number"), ("1_0", "not a whole number"),
     (None, "'None' is not a whole number"), (-1, "-1 is not between 0 and 1"), ("9" * 5000, "not a whole number")],
)  # fmt: skip
def test_labels_are_plain_whole_numbers(tmp_path: Path, label: Any, said: str) -> None:
    test = {"Diving48_vocab.json": [["A"], ["B"]], "Diving48_V2_test.json": [{"vid_name": "b", "label": "1"}]}
    notes = test | {"Diving48_V2_train.json": [{"vid_name": "a", "label": label}]}
    listing = listed(tmp_path, "diving48", ["a.mp4", "b.mp4"], notes)
    assert [(entry.path, entry.label) for entry in listing.entries] == [("b.mp4", 1)]
    assert said in reasons(listing)["a"] and "Diving48_V2_train.json item 1" in reasons(listing)["a"]


def test_a_label_past_every_class_is_no_class(tmp_path: Path) -> None:
    """Else classes.json would hold two thousand million names."""
    listing = listed(tmp_path, "videomae", ["a.mp4", "b.mp4"], {"train.csv": "a.mp4 2000000000\nb.mp4 7\n"})
    assert [(entry.path, entry.label) for entry in listing.entries] == [("b.mp4", 7)]
    assert "train.csv line 1: the label 2000000000 is not between 0 and 99999" in reasons(listing)["a.mp4"]


def test_only_a_test_list_may_lack_labels(tmp_path: Path) -> None:
    notes = {"train.csv": KINETICS + "x,A,1,11,train\n", "val.csv": KINETICS + ",B,1,11,val\n",
             "test.csv": KINETICS + ",C,1,11,test\n"}  # fmt: skip
    listing = listed(tmp_path, "kinetics", ["A.mp4", "B.mp4", "C.mp4"], notes)
    assert [(entry.path, entry.label) for entry in listing.entries] == [("A.mp4", 0), ("C.mp4", None)]
    assert reasons(listing) == {"B": "BadRow: val.csv line 2: no label"}


def test_bytes_that_are_no_text_cost_their_row_alone(tmp_path: Path) -> None:
    notes = {"train.csv": KINETICS.encode() + b"caf\xe9,A,1,11,train\nx,B\xe9,1,11,train\nx,C,1,11,train\n"}
    listing = listed(tmp_path, "kinetics", ["A.mp4", "C.mp4"], notes)
    assert [entry.path for entry in listing.entries] == ["C.mp4"]
    assert "train.csv line 2: the label is not UTF-8" in reasons(listing)["A"]
    assert "train.csv line 3: no video called B\\xe9_000001" in reasons(listing)["B\\xe9"]


def test_half_of_a_surrogate_pair_costs_its_row_alone(tmp_path: Path) -> None:
    rows = '[{"id": "1", "template": "A", "label": "\\ud83d"}, {"id": "\\ud83d"}, {"id": "2", "template": "A"}]'
    notes = {"labels.json": '\ufeff{"A": "0"}', "train.json": rows}  # a byte order mark is no fault
    listing = listed(tmp_path, "ssv2", ["1.webm", "2.webm"], notes)
    assert [entry.path for entry in listing.entries] == ["2.webm"]
    assert "train.json item 1: the text is not UTF-8" in reasons(listing)["1"]
    assert "train.json item 2: the id" in reasons(listing)["\\ud83d"]


def test_a_list_leads_nowhere_out_of_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "secret.mp4", "")
    names = ["../secret", f"{tmp_path}/secret", "../secret.mp4"]
    rows = "".join(f"x,{name},1,11,train\n" for name in names)
    kinetics = listed(tmp_path, "kinetics", ["A.mp4"], {"train.csv": KINETICS + rows})
    assert not kinetics.entries and len(kinetics.failures) == len(names)
    (tmp_path / "v" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    listing = listed(tmp_path, "videomae", ["A.mp4"], {"train.csv": "link.mp4 0\n../secret.mp4 0\nA.mp4 0\n"})
    assert [entry.path for entry in listing.entries] == ["A.mp4"]
    assert {row["error"] for row in listing.failures} == {"OutsideRoot"}


def seconds(text: str) -> float:
    hours, minutes, rest = text.split(":")
    return round(int(hours) * 3600 + int(minutes) * 60 + float(rest), 6)


TIMES = st.builds("{:02}:{:02}:{:02}.{:02}".format, st.integers(0, 2), *[st.integers(0, 59)] * 2, st.integers(0, 99))
ROWS = st.tuples(st.sampled_from(["P01_01", "P26_02", "gone"]), TIMES, TIMES, st.integers(0, 4), st.integers(0, 4))


@settings(max_examples=40)
@given(st.lists(ROWS, min_size=1, max_size=12))
def test_epic_kitchens_is_read_as_a_plain_loop_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, int, int]]
) -> None:
    notes = tmp_path_factory.mktemp("epic")
    root = touch(notes / "v", "P01/P01_01.MP4", "P26/P26_02.MP4")
    for name, take in (("EPIC_100_train.csv", slice(0, None, 2)), ("EPIC_100_validation.csv", slice(1, None, 2))):
        with open(notes / name, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(EPIC)
            for video, start, stop, verb, noun in rows[take]:
                table.writerow([video[:3], video, "do, it", start, stop, f"v{verb}", verb, f"n{noun}", noun])
    listing = FORMATS["epic100"](Source(root, annotations=notes))
    pairs = sorted({(verb, noun) for *_, verb, noun in rows})
    expected = [
        (f"{video[:3]}/{video}.MP4", pairs.index((verb, noun)), seconds(start), seconds(stop), split)
        for split, part in (("train", rows[0::2]), ("val", rows[1::2]))
        for video, start, stop, verb, noun in part
        if video != "gone" and seconds(start) < seconds(stop)
    ]
    assert [(each.path, each.label, each.start, each.end, each.split) for each in listing.entries] == expected
    assert len(listing.failures) == len(rows) - len(expected)
    of_class = [listing.groups[kind]["of_class"] for kind in ("verb", "noun")]
    assert [*zip(*of_class, strict=True)] == pairs
    assert listing.classes == [f"v{verb} n{noun}" for verb, noun in pairs]
