"""The index: all videos or a reason, the same bytes again, and no work twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import index as index_module
from pipeline.index import run_index
from pipeline.media.processes import ProcessDied, map_processes
from pipeline.media.video import NotAVideo, Unforeseen, VideoTimeout
from pipeline.stage_specs import listing_digest
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import StageRecord, read_record
from schemas.tables import FAILURES, LOST, MANIFEST, read_table, video_key
from tests.pipeline.conftest import cut, write_sound, write_video
from tests.pipeline.misbehaving import misbehave


def experiment(data: Path, workspace: Path, *, max_failures: str = "10%", **index: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "workspace": str(workspace),
            "max_failures": max_failures,
            "index": {"data": str(data), "workers": 2, **index},
        }
    )


def rows(workspace: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_table(workspace / "manifest" / "manifest.parquet", MANIFEST).to_pylist()
    return found


def lost(workspace: Path) -> list[tuple[str, int, str]]:
    found = read_table(workspace / "manifest" / "lost.parquet", LOST).to_pylist()
    return [(row["video_id"], row["label"], row["split"]) for row in found]


def failures(workspace: Path) -> dict[str, tuple[str, str]]:
    found = read_table(workspace / "manifest" / "failures.parquet", FAILURES).to_pylist()
    return {row["video_id"]: (row["error"], row["message"]) for row in found}


@pytest.mark.medium
def test_a_folder_becomes_a_manifest(video_folder: Path, tmp_path: Path) -> None:
    record = run_index(experiment(video_folder, tmp_path / "w"))
    found = rows(tmp_path / "w")
    assert [row["video_id"] for row in found] == ["run/a.mp4", "run/deep/b.mkv", "walk/c.avi", "walk/d.mp4"]
    assert [row["key"] for row in found] == [video_key(row["video_id"]) for row in found]
    assert [row["frames"] for row in found] == [16, 20, 24, 28]
    assert [row["codec"] for row in found] == ["h264", "h264", "mpeg4", "h264"]
    assert [(row["label"], row["label_text"]) for row in found] == [(0, "run")] * 2 + [(1, "walk")] * 2
    assert failures(tmp_path / "w") == {}
    assert record.counts == {"done": 4, "failed": 0, "ignored": 1, "extra": 0}
    classes = json.loads((tmp_path / "w" / "manifest" / "classes.json").read_bytes())
    assert classes == {"classes": ["run", "walk"], "groups": {}}
    assert record.info == {"data": str(video_folder.resolve()), "ignored": {".txt": 1}}
    assert record == read_record(tmp_path / "w" / "manifest")
    assert sorted(path.name for path in (tmp_path / "w" / "manifest").iterdir()) == [
        "classes.json", "extra.txt", "failures.parquet", "lost.parquet", "manifest.parquet", "stage.json"
    ]  # fmt: skip


@pytest.mark.medium
def test_a_published_dataset_becomes_a_manifest(video_folder: Path, tmp_path: Path) -> None:
    """Segments of long videos, two kinds of classes; what is in no list is listed, what is missing has its reason."""
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "EPIC_train_action_labels.csv").write_text(
        "participant_id,video_id,narration,start_timestamp,stop_timestamp,verb,verb_class,noun,noun_class\n"
        "P01,a,open door,00:00:00.25,00:00:01.00,open,1,door,0\n"
        "P26,d,close door,00:00:00.00,00:00:01.50,close,0,door,0\n"
        "P01,gone,open door,00:00:00.25,00:00:01.00,open,1,door,0\n"
        "P26,d,shut the door,00:00:00.00,00:00:01.50,close,0,door,0\n"  # twice, as the official list has two
    )
    asked = experiment(video_folder, tmp_path / "w", max_failures="50%", format="epic55", annotations=str(notes))
    record = run_index(asked)
    found = [
        (row["video_id"], row["label"], row["label_text"], row["split"], row["text"]) for row in rows(tmp_path / "w")
    ]
    assert found == [("run/a.mp4#0.25-1", 1, "open door", "train", "open door"),
                     ("walk/d.mp4#0-1.5", 0, "close door", "val", "close door")]  # fmt: skip
    manifest = tmp_path / "w" / "manifest"
    classes = json.loads((manifest / "classes.json").read_bytes())
    assert classes == {
        "classes": ["close door", "open door"],
        "groups": {"verb": {"names": ["close", "open"], "of_class": [0, 1]},
                   "noun": {"names": ["door"], "of_class": [0, 0]}},
    }  # fmt: skip
    assert (manifest / "extra.txt").read_text() == "run/deep/b.mkv\nwalk/c.avi\n"
    assert {name: error for name, (error, _) in failures(tmp_path / "w").items()} == {
        "gone 00:00:00.25": "MissingFile", "walk/d.mp4#0-1.5": "ListedTwice"
    }  # fmt: skip
    assert record.counts == {"done": 2, "failed": 2, "ignored": 1, "extra": 2}
    assert lost(tmp_path / "w") == [("gone 00:00:00.25", 1, "train")]
    # The lists decide, too: a change in them makes the index again.
    assert run_index(asked) == record
    other = experiment(video_folder, tmp_path / "w", max_failures="50%", format="epic55", annotations=str(notes),
                       val_participants=["P01"])  # fmt: skip
    assert run_index(other).fingerprint != record.fingerprint
    held_out = tmp_path / "validation.csv"
    held_out.write_text("P01\n")
    listed = experiment(video_folder, tmp_path / "w", max_failures="50%", format="epic55", annotations=str(notes),
                        list=str(held_out))  # fmt: skip
    first = run_index(listed).fingerprint
    assert {row["path"]: row["split"] for row in rows(tmp_path / "w")} == {"run/a.mp4": "val", "walk/d.mp4": "train"}
    held_out.write_text("P26\n")
    assert run_index(listed).fingerprint != first


@pytest.mark.medium
def test_odd_file_names_reach_the_manifest_as_they_are(tmp_path: Path) -> None:
    """HMDB51's: they are handed to processes and decoders, never to a shell."""
    names = ["#20_Rhythm_clap_u_nm_np1_fr_goo_0", "a;b (x)! &'$(touch y)%s", "-v ünï"]
    video = write_video(tmp_path / "video.avi", frames=4, codec="mpeg4")
    for name in names:
        (tmp_path / "data" / "clap").mkdir(parents=True, exist_ok=True)
        os.link(video, tmp_path / "data" / "clap" / f"{name}.avi")
    lines = [f"{name}.avi {number % 2 + 1} \n" for number, name in enumerate(names)]
    for number, flags in ((1, lines), (2, lines[:1])):
        notes = tmp_path / "notes" / f"clap_test_split{number}.txt"
        notes.parent.mkdir(exist_ok=True)
        notes.write_text("".join(flags), encoding="utf-8")
    options = {"format": "hmdb51", "annotations": str(tmp_path / "notes")}
    run_index(experiment(tmp_path / "data", tmp_path / "w", **options))
    assert {row["path"]: (row["label_text"], row["split"], row["frames"]) for row in rows(tmp_path / "w")} == {
        f"clap/{name}.avi": ("clap", ("train", "test")[number % 2], 4) for number, name in enumerate(names)
    }
    run_index(experiment(tmp_path / "data", tmp_path / "w", **options, split=2))
    assert [row["path"] for row in rows(tmp_path / "w")] == [f"clap/{names[0]}.avi"]
    assert (tmp_path / "w" / "manifest" / "extra.txt").read_text(encoding="utf-8").splitlines() == sorted(
        f"clap/{name}.avi" for name in names[1:]
    )


@pytest.mark.medium
def test_two_runs_give_the_same_bytes_and_the_second_none(video_folder: Path, tmp_path: Path) -> None:
    (video_folder / "walk" / "bad.mp4").write_text("text")
    records = [run_index(experiment(video_folder, tmp_path / name, workers=n)) for n, name in ((1, "a"), (3, "b"))]
    assert records[0].output == records[1].output
    for name in ("manifest.parquet", "failures.parquet"):
        first, second = (tmp_path / workspace / "manifest" / name for workspace in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    before = (tmp_path / "a" / "manifest" / "manifest.parquet").stat().st_mtime_ns
    assert run_index(experiment(video_folder, tmp_path / "a")) == records[0]
    assert (tmp_path / "a" / "manifest" / "manifest.parquet").stat().st_mtime_ns == before


@pytest.mark.medium
def test_a_changed_folder_is_indexed_again(video_folder: Path, tmp_path: Path) -> None:
    first = run_index(experiment(video_folder, tmp_path / "w"))
    write_video(video_folder / "walk" / "e.mp4")
    second = run_index(experiment(video_folder, tmp_path / "w"))
    assert second.fingerprint != first.fingerprint and second.counts["done"] == 5


def walked_digest(root: Path) -> str:
    """What the fingerprint of an index is made of, plainly: folders from the top, names in order, links as they are."""
    lines = []
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        for path in (Path(folder) / name for name in sorted(names)):
            stat = path.lstat()
            lines.append(f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n")
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def test_the_listing_s_digest_is_that_of_a_walk(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("b/2.mp4", "b/10.mp4", "b.mp4", "a/z/1.mp4", "a/é.mp4", "a-b/x", os.fsdecode(b"bad\xff/n\xfe.mp4")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name.encode("utf-8", "backslashreplace").decode())
    (root / "empty").mkdir()
    (root / "link.mp4").symlink_to("b.mp4")
    (root / "gone.mp4").symlink_to("nowhere")
    (root / "folder").symlink_to("a")
    (root / "circle").symlink_to("circle")
    assert listing_digest(root) == walked_digest(root)
    before = listing_digest(root)
    os.utime(root / "a" / "z" / "1.mp4", ns=(0, 0))
    assert listing_digest(root) != before
    (root / "a" / "back").symlink_to("..")
    assert listing_digest(root, follow=True) != listing_digest(root)  # and ends


@pytest.mark.medium
def test_bad_files_are_failures_with_a_reason(video_folder: Path, tmp_path: Path) -> None:
    (video_folder / "run" / "text.mp4").write_text("this is text")
    cut(video_folder / "run" / "a.mp4", video_folder / "run" / "cut.mp4")
    write_sound(video_folder / "run" / "sound.mp4")
    with open(os.fsencode(video_folder) + b"/caf\xe9.mp4", "wb"):
        pass
    record = run_index(experiment(video_folder, tmp_path / "w"))
    found = failures(tmp_path / "w")
    assert {name: error for name, (error, _) in found.items()} == {
        "caf\\xe9.mp4": "BadName",
        "run/cut.mp4": "NotAVideo",
        "run/sound.mp4": "NoVideoStream",
        "run/text.mp4": "NotAVideo",
    }
    assert found["run/sound.mp4"][1] == "has no video stream, only audio"
    assert record.failed == {"BadName": 1, "NotAVideo": 2, "NoVideoStream": 1}
    assert record.counts["done"] == 4


@pytest.mark.medium
def test_labelled_videos_that_are_lost_keep_label_and_split(video_folder: Path, tmp_path: Path) -> None:
    """Not there, not a video, and a part beyond the end; what has no label is nobody's test video."""
    (video_folder / "text.mp4").write_text("this is text")
    listing = tmp_path / "list.csv"
    listing.write_text(
        "path,label,start,end,split\nrun/a.mp4,run,,,test\ngone.mp4,walk,,,test\ntext.mp4,run,,,train\n"
        "walk/c.avi,walk,60,61,val\nalso gone.mp4,,,,test\n../a.mp4,run,,,test\n"
    )
    record = run_index(experiment(video_folder, tmp_path / "w", max_failures="90%", format="csv", list=str(listing)))
    assert lost(tmp_path / "w") == [("gone.mp4", 1, "test"), ("text.mp4", 0, "train"), ("walk/c.avi#60-61", 1, "val")]
    assert (record.counts["done"], record.counts["failed"]) == (1, 5)


def test_csv_segments_share_a_file(video_folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text("path,label,start,end\nrun/a.mp4,x,0,0.5\nrun/a.mp4,y,0.5,1\nrun/a.mp4,x,60,61\n../a.mp4,x,,\n")
    run_index(experiment(video_folder, tmp_path / "w", format="csv", list=str(listing)))
    found = rows(tmp_path / "w")
    assert [(row["video_id"], row["label_text"], row["start"], row["end"]) for row in found] == [
        ("run/a.mp4#0-0.5", "x", None, 0.5),
        ("run/a.mp4#0.5-1", "y", 0.5, 1.0),
    ]
    assert all(row["frames"] == 16 for row in found)
    assert {error for error, _ in failures(tmp_path / "w").values()} == {"BadRow", "OutsideRoot"}


@pytest.mark.medium
def test_what_cannot_be_indexed_is_said(video_folder: Path, tmp_path: Path) -> None:
    def said(data: Path, workspace: Path = tmp_path / "w", **options: Any) -> str:
        with pytest.raises(UserError) as caught:
            run_index(experiment(data, workspace, **options))
        return str(caught.value)

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is not a folder" in said(tmp_path / "missing")
    assert "no videos in" in said(empty) and "it is empty" in said(empty)
    (empty / "a.txt").touch()
    assert "1 .txt" in said(empty)
    (empty / "a.mp4").write_text("text")
    assert "none of 1 videos" in said(empty) and "a.mp4: no video that libav can open" in said(empty)
    assert "lies in the data folder" in said(video_folder, video_folder / "work")
    listing = tmp_path / "list.csv"
    listing.write_text("path,label\nrun/a.mp4,x\n./run/a.mp4,y\n")
    told = said(video_folder, format="csv", list=str(listing))
    assert "1 videos are listed more than once, the first: run/a.mp4 (label x, then label y)" in told
    assert "for the formats csv and epic55; 'folder' reads" in said(video_folder, list=str(listing))
    listing.write_text("path,label\n" + "".join(f"{number}.mp4,x\n" for number in range(12)))
    told = said(video_folder, format="csv", list=str(listing))
    assert f"12 are missing: is {video_folder.resolve()} (index.data) their folder?" in told
    assert read_record(tmp_path / "w" / "manifest") is None


@pytest.mark.medium
def test_the_error_budget_stops_a_run_that_goes_wrong(video_folder: Path, tmp_path: Path) -> None:
    for number in range(12):
        (video_folder / "run" / f"text{number}.mp4").write_text("text")
    with pytest.raises(UserError, match=r"11 of 16 videos failed, more than .* '10%'.*text\d+.mp4: no video"):
        run_index(experiment(video_folder, tmp_path / "w"))
    with pytest.raises(UserError, match="a share such as"):
        run_index(experiment(video_folder, tmp_path / "w", max_failures="many"))
    record = run_index(experiment(video_folder, tmp_path / "w", max_failures="80%"))
    assert record.counts == {"done": 4, "failed": 12, "ignored": 1, "extra": 0}


@pytest.mark.medium
def test_a_stopped_run_goes_on_where_it_was(
    video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    genuine = map_processes

    def stopped(*args: Any, **options: Any) -> Any:
        for count, result in enumerate(genuine(*args, **options)):
            if count == 2:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(index_module, "map_processes", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_index(experiment(video_folder, tmp_path / "w"))
    folder = tmp_path / "w" / "manifest"
    assert read_record(folder) is None
    assert sorted(path.name for path in (folder / ".parts").iterdir()) == ["000000.json", "spec.json"]
    assert len(json.loads((folder / ".parts" / "000000.json").read_bytes())) == 2

    probed: list[str] = []

    def watched(work: Any, tasks: list[str], **options: Any) -> Any:
        probed.extend(tasks)
        return genuine(work, tasks, **options)

    monkeypatch.setattr(index_module, "map_processes", watched)
    resumed = run_index(experiment(video_folder, tmp_path / "w"))
    assert len(probed) == 2 and "2 files were probed before, 2 are left" in capfd.readouterr().err
    assert resumed.output == run_index(experiment(video_folder, tmp_path / "other")).output
    assert not (folder / ".parts").exists()


@pytest.mark.medium
def test_an_interrupt_ends_all_processes_and_leaves_no_half_files(tmp_path: Path) -> None:
    one = write_video(tmp_path / "data" / "0.mp4", frames=4)
    for number in range(1, 10):
        shutil.copy(one, one.with_name(f"{number}.mp4"))
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
            import signal, time
            from pipeline import index
            from schemas import progress
            from schemas.config import Experiment

            progress.EVERY = 0.0  # a line for each video
            probe_file = index.probe_file

            def stuck_on_the_last(path):  # so that the run cannot be over before it is interrupted
                if path.endswith("9.mp4"):
                    time.sleep(600)
                return probe_file(path)

            if __name__ == "__main__":
                signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in a shell's background ignores it
                index.probe_file = stuck_on_the_last
                options = {{"data": {str(tmp_path / "data")!r}, "format": "files", "workers": 2}}
                index.run_index(Experiment(workspace={str(tmp_path / "w")!r}, index=options))
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, str(program)], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stderr is not None
    seen = ""
    while " of 10 videos" not in seen and process.poll() is None:
        seen += process.stderr.read(1)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: everybody gets it
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert errors.count("Traceback") == 1, errors
    ended = time.monotonic() + 10
    while _alive(process.pid) and time.monotonic() < ended:
        time.sleep(0.1)
    assert not _alive(process.pid)
    folder = tmp_path / "w" / "manifest"
    assert not list(folder.rglob("*.tmp")) and read_record(folder) is None
    record: StageRecord = run_index(experiment(tmp_path / "data", tmp_path / "w", format="files"))
    assert record.counts["done"] == 10


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.medium
def test_a_crash_costs_one_video(tmp_path: Path) -> None:
    tasks = ["a", "die", "b", "hang", f"once:{tmp_path / 'once'}", "bad", "c"]
    found = dict(map_processes(misbehave, tasks, processes=2, time_limit=8))
    assert [found[number] for number in (0, 2, 6)] == ["A", "B", "C"]
    assert found[4] == tasks[4].upper()
    assert isinstance(found[1], ProcessDied) and str(found[1]).endswith("died, 2 times (signal SIGSEGV)")
    assert isinstance(found[3], VideoTimeout) and isinstance(found[5], NotAVideo)


@pytest.mark.medium
def test_an_unforeseen_exception_is_the_videos() -> None:
    ((number, found),) = map_processes(misbehave, ["fault"], processes=1, time_limit=60)
    assert number == 0 and isinstance(found, Unforeseen)
    assert str(found).startswith("KeyError: 'a fault of ours' (misbehaving.py:")


@pytest.mark.medium
def test_real_clips_are_all_indexed(real_clips: Path, tmp_path: Path) -> None:
    record = run_index(experiment(real_clips / "hard", tmp_path / "w", format="files"))
    assert record.counts == {"done": 22, "failed": 0, "ignored": 0, "extra": 0}
    turned = next(row for row in rows(tmp_path / "w") if row["path"] == "dc_video_90.mov")
    assert (turned["width"], turned["height"], turned["rotation"]) == (320, 568, 270)
