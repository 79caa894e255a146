"""Published datasets by their own annotation files: each read from a small one of its shape, written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets import Listing, Source
from pipeline.datasets.entry import Entry
from schemas.errors import UserError
from schemas.registry import FORMATS
from tests.pipeline.datasets.listings import reasons, touch, write


def by_path(listing: Listing) -> dict[str, Entry]:
    return {entry.path: entry for entry in listing.entries}


def lost(listing: Listing) -> dict[str, tuple[int, str]]:
    return {row["video_id"]: (row["label"], row["split"]) for row in listing.lost}


# Something-Something v2

LABELS = {"Closing something": "1", "Approaching something with your camera": "0", "Moving something up": "2"}
TRAIN: list[dict[str, Any]] = [
    {"id": "78687", "label": "closing a box", "template": "Closing [something]", "placeholders": ["a box"]},
    {"id": "42326", "label": "moving a cup up", "template": "Moving [something] up", "placeholders": ["a cup"]},
    {"id": "9", "label": "x", "template": "Eating [something]", "placeholders": ["x"]},
    {"id": "404", "label": "closing a door", "template": "Closing [something]", "placeholders": ["a door"]},
    {"label": "no id"},
]
VALIDATION: list[dict[str, Any]] = [{"id": "5", "label": "approaching a tree with your camera",
               "template": "Approaching [something] with your camera", "placeholders": ["a tree"]}]  # fmt: skip


@pytest.mark.parametrize("prefix", ["something-something-v2-", "labels/"])
def test_ssv2(tmp_path: Path, prefix: str) -> None:
    root = touch(tmp_path / "v", "20bn/78687.webm", "20bn/42326.webm", "5.mp4", "7.mp4", "9.webm", "11.webm")
    notes = tmp_path / "notes"
    for name, content in (("labels", LABELS), ("train", TRAIN), ("validation", VALIDATION), ("test", [{"id": "7"}])):
        write(notes / f"{prefix}{name}.json", content)
    listing = FORMATS["ssv2"](Source(root, annotations=notes))
    assert by_path(listing) == {
        "20bn/78687.webm": Entry("20bn/78687.webm", 1, "Closing something", "train", text="closing a box"),
        "20bn/42326.webm": Entry("20bn/42326.webm", 2, "Moving something up", "train", text="moving a cup up"),
        "5.mp4": Entry("5.mp4", 0, "Approaching something with your camera", "val",
                       text="approaching a tree with your camera"),
        "7.mp4": Entry("7.mp4", split="test"),
    }  # fmt: skip
    for item in [*TRAIN[:2], *VALIDATION]:  # the literal reading: the template without brackets, looked up
        entry = next(each for each in listing.entries if Path(each.path).stem == item["id"])
        assert entry.label == int(LABELS[str(item["template"]).replace("[", "").replace("]", "")])
    assert listing.classes == sorted(LABELS, key=lambda name: int(LABELS[name]))
    assert listing.extra == ["11.webm"]
    told = reasons(listing)
    assert "is no class of labels.json" in told["9"] and told["404"].startswith("MissingFile")
    assert lost(listing) == {"404": (1, "train")}  # what the list said of it
    assert any("item 5: no id" in reason for reason in told.values())


# Kinetics

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"


def test_kinetics(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "v", "train/abseiling/-3B32lodo2M_000059_000069.mp4", "train/riding_a_bike/AAA_000001_000011.mp4",
        "val/abseiling/BBB.mp4", "train/abseiling/AAA_000001_000011.mp4", "test/CCC_000000_000010.mp4", "extra.mp4",
    )  # fmt: skip
    notes = tmp_path / "notes"
    write(notes / "kinetics_400_train.csv", HEADER + "abseiling,-3B32lodo2M,59,69,train,0\n"
          "riding a bike,AAA,1,11,train,0\nzumba,DDD,5,15,train,0\n")  # fmt: skip
    write(notes / "validate.csv", HEADER + "abseiling,BBB,3,13,validate,0\nunheard of,BBB,3,13,validate,0\n")
    write(notes / "test.csv", "youtube_id,time_start,time_end,split\nCCC,0,10,test\n")
    listing = FORMATS["kinetics"](Source(root, annotations=notes))
    assert by_path(listing) == {
        "train/abseiling/-3B32lodo2M_000059_000069.mp4":
            Entry("train/abseiling/-3B32lodo2M_000059_000069.mp4", 0, "abseiling", "train"),
        "train/riding_a_bike/AAA_000001_000011.mp4":
            Entry("train/riding_a_bike/AAA_000001_000011.mp4", 1, "riding a bike", "train"),
        "val/abseiling/BBB.mp4": Entry("val/abseiling/BBB.mp4", 0, "abseiling", "val"),
        "test/CCC_000000_000010.mp4": Entry("test/CCC_000000_000010.mp4", split="test"),
    }  # fmt: skip
    assert listing.classes == sorted(["abseiling", "riding a bike", "zumba"])
    told = reasons(listing)
    assert told["DDD"].startswith("MissingFile: kinetics_400_train.csv line 4: no video called DDD_000005_000015")
    assert "is no class of the training list" in told["BBB"]
    assert lost(listing) == {"DDD": (2, "train")}
    assert listing.extra == ["extra.mp4", "train/abseiling/AAA_000001_000011.mp4"]


# VideoMAE's lists


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
def test_videomae_lists(tmp_path: Path, separator: str) -> None:
    root = touch(tmp_path / "v", "a b/c, d.mp4", "d.mp4", "e.mp4", "g.mp4")
    lines = [("a b/c, d.mp4", 3), (f"{tmp_path / 'v'}/d.mp4", 0), ("../out.mp4", 1), ("f.mp4", 1), ("e.mp4", "x")]
    write(tmp_path / "train.csv", "".join(f"{path}{separator}{label}\n" for path, label in lines))
    write(tmp_path / "val.csv", f"e.mp4{separator}1\ng.mp4{separator}2\n")
    write(tmp_path / "test.csv", f"g.mp4{separator}2\ne.mp4{separator}1\n")  # a copy, as people have it
    listing = FORMATS["videomae"](Source(root, annotations=tmp_path))
    assert listing.entries == [Entry("a b/c, d.mp4", 3, split="train"), Entry("d.mp4", 0, split="train"),
                               Entry("e.mp4", 1, split="val"), Entry("g.mp4", 2, split="val")]  # fmt: skip
    told = reasons(listing)
    assert told["../out.mp4"].startswith("OutsideRoot: train.csv line 3")
    assert told["f.mp4"].startswith("MissingFile") and lost(listing) == {"f.mp4": (1, "train")}
    (said,) = (reason for name, reason in told.items() if name.startswith("e.mp4"))
    assert said.startswith("BadRow: train.csv line 5: ") and "expected a path and a whole number" in said


@pytest.mark.parametrize("line", ["a.mp4 0 -1", "a.mp4,0,-1", "frames/a 1 58"])
def test_the_other_videomae_list_is_refused(tmp_path: Path, line: str) -> None:
    root = touch(tmp_path / "v", "a.mp4")
    write(tmp_path / "train.csv", f"{line}\n")
    with pytest.raises(UserError, match=f"such as '{line}'; expected a path and a label. VideoMAE V2's pretraining"):
        FORMATS["videomae"](Source(root, annotations=tmp_path))


# UCF101, HMDB51, Diving48


def test_ucf101(tmp_path: Path) -> None:
    names = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "Archery/v_Archery_g01_c02.avi",
             "Archery/v_Archery_g02_c02.avi"]  # fmt: skip
    root = touch(tmp_path / "v", *(f"UCF-101/{name}" for name in names))
    write(tmp_path / "classInd.txt", "1 ApplyEyeMakeup\n2 Archery\n")
    write(tmp_path / "trainlist02.txt", f"{names[0]} 1\n{names[1]} 2\nArchery/v_Archery_g09_c01.avi 2\n")
    write(tmp_path / "testlist02.txt", f"{names[2]}\n")
    listing = FORMATS["ucf101"](Source(root, annotations=tmp_path, split=2))
    assert listing.entries == [
        Entry(f"UCF-101/{names[0]}", 0, "ApplyEyeMakeup", "train"),
        Entry(f"UCF-101/{names[1]}", 1, "Archery", "train"),
        Entry(f"UCF-101/{names[2]}", 1, "Archery", "test"),
    ]
    assert list(reasons(listing)) == ["Archery/v_Archery_g09_c01.avi"]
    assert lost(listing) == {"Archery/v_Archery_g09_c01.avi": (1, "train")}
    write(tmp_path / "trainlist02.txt", f"{names[0]} 2\n")
    assert "not that of the folder ApplyEyeMakeup, 1" in reasons(
        FORMATS["ucf101"](Source(root, annotations=tmp_path, split=2)))[names[0]]  # fmt: skip
    with pytest.raises(UserError, match=r"no trainlist01\.txt.*set index\.annotations"):
        FORMATS["ucf101"](Source(root, annotations=tmp_path, split=1))


def test_hmdb51(tmp_path: Path) -> None:
    odd = "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi"
    root = touch(tmp_path / "v", f"clap/{odd}", "clap/b;(x)!.avi", "brush_hair/b;(x)!.avi", "brush_hair/none.avi")
    write(tmp_path / "splits" / "clap_test_split1.txt", f"{odd} 1 \nb;(x)!.avi 2\nbad line\n")
    write(tmp_path / "splits" / "brush_hair_test_split1.txt", "b;(x)!.avi 1 \nnone.avi 0 \n")
    write(tmp_path / "splits" / "brush_hair_test_split2.txt", "none.avi 1 \n")
    listing = FORMATS["hmdb51"](Source(root, annotations=tmp_path / "splits"))
    assert listing.entries == [
        Entry("brush_hair/b;(x)!.avi", 0, "brush_hair", "train"),
        Entry(f"clap/{odd}", 1, "clap", "train"),
        Entry("clap/b;(x)!.avi", 1, "clap", "test"),
    ]
    assert listing.classes == ["brush_hair", "clap"] and listing.extra == []
    assert any("expected a file and 0, 1 or 2" in reason for reason in reasons(listing).values())
    unused = write(tmp_path / "splits" / "clap_test_split2.txt", "absent.avi 0 \n")
    assert not FORMATS["hmdb51"](Source(root, annotations=unused.parent, split=2)).failures


def test_hmdb51_takes_no_video_of_another_class_for_a_missing_one(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "clap/a.avi")
    write(tmp_path / "clap_test_split1.txt", "a.avi 1\n")
    write(tmp_path / "wave_test_split1.txt", "a.avi 2\n")
    listing = FORMATS["hmdb51"](Source(root, annotations=tmp_path))
    assert listing.entries == [Entry("clap/a.avi", 0, "clap", "train")]
    assert reasons(listing)["a.avi"].startswith("MissingFile: wave_test_split1.txt line 1: no video called a")
    assert lost(listing) == {"a.avi": (1, "test")}
    flat = touch(tmp_path / "flat", "a.avi")  # no folders of classes: there it is the one meant
    assert FORMATS["hmdb51"](Source(flat, annotations=tmp_path)).entries[0] == Entry("a.avi", 0, "clap", "train")


def test_diving48(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "rgb/_8Vy3dlHg2w_00000.mp4", "rgb/_8Vy3dlHg2w_00001.mp4")
    vocabulary = [["Back", "15som", "05Twis", "FREE"], ["Forward", "25som", "NoTwis", "PIKE"]]
    write(tmp_path / "Diving48_vocab.json", vocabulary)
    write(tmp_path / "Diving48_V2_train.json", [
        {"vid_name": "_8Vy3dlHg2w_00000", "label": 1, "start_frame": 0, "end_frame": 30},
        {"vid_name": "_8Vy3dlHg2w_00009", "label": 2, "start_frame": 0, "end_frame": 30},
    ])  # fmt: skip
    write(tmp_path / "Diving48_V2_test.json", [
        {"vid_name": "_8Vy3dlHg2w_00001", "label": 0, "start_frame": 0, "end_frame": 30},
        {"vid_name": "_8Vy3dlHg2w_00007", "label": 0, "start_frame": 0, "end_frame": 30},
    ])  # fmt: skip
    listing = FORMATS["diving48"](Source(root, annotations=tmp_path))
    assert listing.entries == [
        Entry("rgb/_8Vy3dlHg2w_00000.mp4", 1, " ".join(vocabulary[1]), "train"),
        Entry("rgb/_8Vy3dlHg2w_00001.mp4", 0, " ".join(vocabulary[0]), "test"),
    ]
    assert "the label 2 is not between 0 and 1" in reasons(listing)["_8Vy3dlHg2w_00009"]
    assert lost(listing) == {"_8Vy3dlHg2w_00007": (0, "test")}


# Epic-Kitchens

EPIC55 = "uid,participant_id,video_id,narration,start_timestamp,stop_timestamp,start_frame,stop_frame,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"  # noqa: E501


def epic(*rows: str) -> str:
    return EPIC55 + "".join(f"{row}\n" for row in rows)


def test_epic55(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "P01/P01_01.MP4", "P26/P26_02.MP4")
    write(tmp_path / "EPIC_train_action_labels.csv", epic(
        """0,P01,P01_01,open door,00:00:00.14,00:00:03.37,8,202,open,3,door,8,"['door']",[8]""",
        """1,P01,P01_01,turn on light,00:01:04.37,01:00:06.17,262,370,turn on,6,light,114,"['light']",[114]""",
        """2,P26,P26_02,open light,00:00:06.98,00:00:09.49,418,569,open,3,light,114,"['light']",[114]""",
        """3,P26,P26_02,close door,00:00:09.49,00:00:06.98,418,569,close,4,door,8,"['door']",[8]""",
        """4,P30,P30_02,open door,0:0:1,0:0:2,1,2,open,x,door,8,"['door']",[8]""",
    ))  # fmt: skip
    listing = FORMATS["epic55"](Source(root, annotations=tmp_path, val_participants=("P26",)))
    pairs = sorted({(3, 8), (6, 114), (3, 114), (4, 8)})
    assert listing.entries == [
        Entry("P01/P01_01.MP4", pairs.index((3, 8)), "open door", "train", 0.14, 3.37, "open door"),
        Entry("P01/P01_01.MP4", pairs.index((6, 114)), "turn on light", "train", 64.37, 3606.17, "turn on light"),
        Entry("P26/P26_02.MP4", pairs.index((3, 114)), "open light", "val", 6.98, 9.49, "open light"),
    ]
    assert listing.groups["verb"]["of_class"] == [verb for verb, _ in pairs]
    assert listing.groups["noun"]["of_class"] == [noun for _, noun in pairs]
    assert (listing.groups["verb"]["names"][6], listing.groups["noun"]["names"][114]) == ("turn on", "light")
    told = list(reasons(listing).values())
    assert any("which is not after its start" in reason for reason in told)
    assert any("verb_class 'x'" in reason for reason in told)


@pytest.mark.parametrize(
    "listed",
    ["00002, P26_02, 0000000418, 0000000569, 003, 114, 0434\n3, P26_02, 1, 2, 4, 8, 1\n", "P26_02\n", "P26\n"],
    ids=["RULSTM's validation.csv", "videos", "participants"],
)
def test_epic55_validates_on_what_a_list_names(tmp_path: Path, listed: str) -> None:
    root = touch(tmp_path / "v", "P01_01.MP4", "P26_02.MP4")
    write(tmp_path / "EPIC_train_action_labels.csv", epic(
        """0,P01,P01_01,open door,00:00:00.14,00:00:03.37,8,202,open,3,door,8,"['door']",[8]""",
        """2,P26,P26_02,open light,00:00:06.98,00:00:09.49,418,569,open,3,light,114,"['light']",[114]""",
        """3,P26,P26_02,close door,00:00:09.49,00:00:16.98,418,569,close,4,door,8,"['door']",[8]""",
    ))  # fmt: skip
    path = write(tmp_path / "validation.csv", listed)
    listing = FORMATS["epic55"](Source(root, path, tmp_path, val_participants=("P01",)))  # the list is what counts
    assert [entry.split for entry in listing.entries] == ["train", "val", "val"]
    write(path, listed + "P99_01\n")
    with pytest.raises(UserError, match=r"validation\.csv line \d: 'P99_01' is no uid, video_id or participant_id"):
        FORMATS["epic55"](Source(root, path, tmp_path))
    write(path, "\n")
    with pytest.raises(UserError, match="names nothing for validation"):
        FORMATS["epic55"](Source(root, path, tmp_path))
    with pytest.raises(UserError, match=r"index\.val_participants: none of P98, P99 is in"):
        FORMATS["epic55"](Source(root, annotations=tmp_path, val_participants=("P99", "P98")))


def test_epic100_has_a_validation_list_and_names_of_classes(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "P01/videos/P01_01.MP4", "P02/videos/P02_01.MP4")
    header = "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"  # noqa: E501
    row = "{0}_01_0,{0},{0}_01,00:00:01.0,00:00:00.14,00:00:03.37,8,202,pick up cup,pick-up,0,cup,1,['cup'],[1]\n"
    write(tmp_path / "EPIC_100_train.csv", header + row.format("P01"))
    write(tmp_path / "EPIC_100_validation.csv", header + row.format("P02"))
    write(tmp_path / "EPIC_100_verb_classes.csv", "id,key,instances,category\n0,take,[],x\n1,put,[],x\n")
    listing = FORMATS["epic100"](Source(root, annotations=tmp_path))
    assert listing.entries == [
        Entry("P01/videos/P01_01.MP4", 0, "take cup", "train", 0.14, 3.37, "pick up cup"),
        Entry("P02/videos/P02_01.MP4", 0, "take cup", "val", 0.14, 3.37, "pick up cup"),
    ]
    assert listing.groups["verb"]["names"] == ["take", "put"] and listing.groups["noun"]["names"] == ["0", "cup"]
