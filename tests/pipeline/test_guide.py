"""The guide stage: tars next to the clips' tars, what is left out and why, and both stages in a row."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import open_clip
import pytest
import torch
import webdataset as wds
from safetensors.torch import load_file, save_file

from pipeline.caption import run_caption
from pipeline.guide import GuideWorker, run_guide
from pipeline.guides import Frames, Scores
from pipeline.guides.encoder import TextEncoder
from pipeline.guides.frames import CHUNK, scored_frames
from pipeline.guides.motion import CodecMotion, MotionGuide
from pipeline.guides.recipes import recipe
from pipeline.guides.text import EmbeddingsGuide, TextGuide
from pipeline.media.encoding import encode
from pipeline.media.video import NoFrames, VideoError
from pipeline.runtime.kept import keep_result
from pipeline.runtime.stage_folder import building
from pipeline.runtime.tars import Fields, iter_shard, read_sample, write_shard
from pipeline.runtime.units import Row, ShardResult, Unit
from pipeline.shard import ShardWorker
from pipeline.stage_specs import guide_spec
from schemas.atomic import sha256_file
from schemas.config import Experiment, Flow, Motion, Ray, Shard, Text
from schemas.errors import UserError
from schemas.shards import dequantize, guide_meta, npy_array
from schemas.stage import StageRecord, read_record, write_record
from schemas.tables import (
    CAPTIONS,
    CLIP_INDEX,
    FAILURES,
    GUIDE_INDEX,
    MANIFEST,
    failure,
    read_table,
    table,
    video_key,
    write_table,
)

STRIDE = 2
NAMES = ["a.mp4", "b.mp4", "silent.mp4", "c.mp4"]


class Grey:
    """Scores each 16 x 16 cell by its brightness, once plus the number of the caption."""

    def __init__(self, bad: str = "") -> None:
        self.bad, self.chunks = bad, list[int]()

    def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
        maps = []
        for frames in chunks:
            self.chunks.append(len(frames))
            if self.bad in captions:
                raise RuntimeError("the model chokes")
            f, h, w, _ = frames.shape
            cells = frames.reshape(f, h // 16, 16, w // 16, 16, 3).mean((2, 4, 5), dtype=np.float32)
            maps.append(np.stack([cells + n for n in range(len(captions))]))
        return Scores(np.concatenate(maps, axis=1), np.eye(len(captions), 4, dtype=np.float32))


def mp4(frames: int, size: tuple[int, int] = (32, 64), seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    pictures = [np.kron(rng.integers(0, 256, (2, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8) for _ in range(frames)]
    return encode([av.VideoFrame.from_ndarray(p, format="rgb24") for p in pictures], 10.0, Shard(crf=1, gop=4)).data


def manifest_row(name: str, **known: Any) -> Row:
    return {
        "key": video_key(name), "video_id": name, "path": name, "start": None, "end": None, "label": 0,
        "label_text": "spinning", "split": "", "text": None, "frames": 9, "fps": 10.0, "width": 64, "height": 32,
        "rotation": 0, "codec": "h264", "duration": 0.9, "bytes": 1, **known,
    }  # fmt: skip


def record(folder: Path, stage: str, inputs: dict[str, str], output: str, **info: str) -> None:
    counts = {"done": 1, "failed": 0}
    write_record(
        folder,
        StageRecord(stage=stage, fingerprint="0", config={}, inputs=inputs, output=output, counts=counts, failed={},
                    tools={}, info=info, seconds=0.0),
    )  # fmt: skip


def make_clips(root: Path, names: list[str]) -> list[Row]:
    """data/, manifest/ and clips/ of a workspace: two clips a tar; returns the clips' index."""
    rows = [manifest_row(name, label_text=None if "silent" in name else "spinning") for name in names]
    (root / "data").mkdir(parents=True)
    for n, name in enumerate(names):
        (root / "data" / name).write_bytes(mp4(9, seed=n))
    write_table(root / "manifest" / "manifest.parquet", rows, MANIFEST)
    record(root / "manifest", "index", {}, "M", data=str(root / "data"))
    worker, index = ShardWorker(root / "clips", root / "data", Shard(short_side=32)), list[Row]()
    for shard in range(0, len(rows), 2):
        *_, result = worker.run(Unit(shard // 2, rows[shard : shard + 2]))
        assert isinstance(result, ShardResult) and not result.failures
        index += result.rows
    write_table(root / "clips" / "index.parquet", index, CLIP_INDEX)
    record(root / "clips", "shard", {"manifest": "M"}, "C1")
    return index


def make_captions(
    root: Path, texts: dict[str, list[str]], failed: Iterable[str] = ("silent.mp4",), manifest: str = "M"
) -> Path:
    folder = root / "captions" / "oracle"
    rows = [
        {"key": video_key(name), "video_id": name, "caption": n, "text": text, "frame": None, "time": None}
        for name, said in texts.items()
        for n, text in enumerate(said)
    ]
    write_table(folder / "captions.parquet", rows, CAPTIONS)
    failures = [failure(name, "caption", ValueError("no label")) for name in failed]
    write_table(folder / "failures.parquet", failures, FAILURES)
    record(folder, "caption", {"manifest": manifest}, "T1")
    return folder


class Broken:
    """A model that cannot go on, whatever the video."""

    def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
        next(iter(chunks))
        raise UserError("the model is broken")


CAPTIONED = {"c.mp4": ["c0"], "a.mp4": ["a <b>0</b>\n", "a1", "a2"], "b.mp4": ["b0", "b1"]}


@pytest.fixture(scope="module")
def made_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder, NAMES)
    return folder


@pytest.fixture
def uncaptioned(made_clips: Path, tmp_path: Path) -> Path:
    shutil.copytree(made_clips, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def workspace(uncaptioned: Path) -> Path:
    make_captions(uncaptioned, CAPTIONED)
    return uncaptioned


def clip_rows(root: Path, shard: int) -> list[Row]:
    rows = read_table(root / "clips" / "index.parquet", CLIP_INDEX).to_pylist()
    return [row for row in rows if row["shard"] == shard]


def run(
    guide: Any,
    root: Path,
    shard: int,
    out: str = "out",
    *,
    speaks: bool = True,
    read: Any = scored_frames,
    threads: int = 1,
) -> ShardResult:
    captions = root / "captions" / "oracle" if speaks else None
    worker = GuideWorker(guide, root / "clips", captions, root / out, STRIDE, read, threads=threads)
    unit = Unit(shard, clip_rows(root, shard))
    *finished, result = worker.run(unit)
    assert finished == [1] * len(unit.rows) and isinstance(result, ShardResult)
    table(result.rows, GUIDE_INDEX), table(result.failures, FAILURES)
    path = root / out / f"{shard:06d}.tar"
    assert result.files == {path.name: sha256_file(path)}
    return result


def test_the_tar_beside_the_clips(workspace: Path) -> None:
    result = run(Grey(), workspace, 0)
    samples = dict(iter_shard(workspace / "out" / "000000.tar"))
    clips = list(iter_shard(workspace / "clips" / "000000.tar"))
    assert list(samples) == [key for key, _ in clips] == [row["key"] for row in result.rows]
    assert [row["maps"] for row in result.rows] == [3, 2] and not result.failures
    for (key, clip), row in zip(clips, result.rows, strict=True):
        fields = samples[key]
        meta = guide_meta(fields["json"], key)
        assert meta.captions == CAPTIONED[meta.video_id] and meta.missing is None
        assert (meta.frames, meta.frame_stride) == (9, STRIDE)
        stored, text = npy_array(fields["scores.npy"]), npy_array(fields["text.npy"])
        assert stored.dtype == np.uint8 and stored.shape == (row["maps"], 5, 2, 4)
        assert text.dtype == np.float16 and text.shape == (row["maps"], 4)
        frames = np.concatenate(list(scored_frames(clip["mp4"], STRIDE, 9)))
        cells = frames.reshape(5, 2, 16, 4, 16, 3).mean((2, 4, 5))
        for c in range(row["maps"]):
            scores = dequantize(stored[c], meta.scale[c], meta.offset[c])
            np.testing.assert_allclose(scores, cells + c, atol=meta.scale[c] / 2 + 1e-3)
        with open(workspace / "out" / "000000.tar", "rb") as file:
            assert read_sample(file, row["offset"], row["length"], key) == fields


def test_threads_that_decode_change_no_byte(workspace: Path) -> None:
    alone, many = (run(Grey(), workspace, 0, f"by-{threads}", threads=threads) for threads in (1, 8))
    assert many.rows == alone.rows and many.files == alone.files


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_webdataset_reads_it(workspace: Path) -> None:
    run(Grey(), workspace, 0)
    dataset = wds.WebDataset(str(workspace / "out" / "000000.tar"), shardshuffle=False, empty_check=False)
    samples = list(dataset)
    assert [json.loads(sample["json"])["video_id"] for sample in samples] == ["a.mp4", "b.mp4"]
    assert np.load(io.BytesIO(samples[0]["scores.npy"]), allow_pickle=False).shape == (3, 5, 2, 4)


def test_an_exception_that_nobody_foresaw_is_the_videos(workspace: Path) -> None:
    """Also where a video is read, which another thread does."""
    seen: list[bytes] = []

    def read(mp4: bytes, stride: int, frames: int) -> Iterator[Any]:
        seen.append(mp4)
        yield from scored_frames(mp4, stride, frames if len(seen) > 1 else frames // 0)

    result = run(Grey(), workspace, 0, read=read)
    (failed,) = result.failures
    assert (failed["video_id"], failed["error"]) == ("a.mp4", "Unforeseen")
    assert failed["message"].startswith("ZeroDivisionError: ") and "(test_guide.py:" in failed["message"]
    assert [row["maps"] for row in result.rows] == [0, 2]


def test_a_video_without_captions_keeps_its_place(workspace: Path) -> None:
    result = run(Grey(), workspace, 1)
    samples = dict(iter_shard(workspace / "out" / "000001.tar"))
    silent = samples[video_key("silent.mp4")]
    assert list(silent) == ["json"]
    assert guide_meta(silent["json"], "silent").missing == "caption: ValueError: no label"
    assert [row["maps"] for row in result.rows] == [0, 1] and not result.failures


def test_a_guide_without_captions_scores_every_video(workspace: Path) -> None:
    class Red:
        def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
            assert captions == []
            red = np.concatenate([frames[..., 0] for frames in chunks]).astype(np.float32)
            return Scores(np.stack([red, -red]))

    shutil.rmtree(workspace / "captions")
    result = run(Red(), workspace, 1, speaks=False)
    assert [row["maps"] for row in result.rows] == [2, 2] and not result.failures
    for key, fields in iter_shard(workspace / "out" / "000001.tar"):
        meta = guide_meta(fields["json"], key)
        assert list(fields) == ["json", "scores.npy"] and npy_array(fields["scores.npy"]).shape == (2, 5, 32, 64)
        assert meta.captions == [] and meta.missing is None and len(meta.scale) == len(meta.offset) == 2


@pytest.mark.medium
def test_embeddings_look_at_no_video(workspace: Path) -> None:
    name = tiny_encoder(workspace / "model")
    encoder = TextEncoder(Text(model=name, device="cpu"))
    (workspace / "clips" / "000000.tar").unlink()
    result = run(EmbeddingsGuide(encoder), workspace, 0, read=None)
    assert [row["maps"] for row in result.rows] == [3, 2] and not result.failures
    for key, fields in iter_shard(workspace / "out" / "000000.tar"):
        meta = guide_meta(fields["json"], key)
        assert list(fields) == ["json", "text.npy"] and meta.captions == CAPTIONED[meta.video_id]
        assert meta.scale == meta.offset == [] and meta.missing is None
        expected = np.concatenate([encoder.text_embeddings([text]) for text in meta.captions])
        np.testing.assert_array_equal(npy_array(fields["text.npy"]), expected.astype(np.float16))
    silent = run(EmbeddingsGuide(encoder), workspace, 1, read=None)
    assert [row["maps"] for row in silent.rows] == [0, 1] and not silent.failures


def test_a_guide_that_returns_nonsense_stops_the_stage(workspace: Path) -> None:
    class Short(Grey):
        def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
            maps = super().score(chunks, captions).maps
            assert maps is not None
            return Scores(maps[:, 1:])

    with pytest.raises(UserError, match=r"maps of shape \[3, 4, 2, 4\], expected .* = \[3, 5, any, any\]"):
        run(Short(), workspace, 0)


def test_two_runs_give_the_same_bytes(workspace: Path) -> None:
    run(Grey(), workspace, 0, "one")
    run(Grey(), workspace, 0, "two")
    assert (workspace / "one" / "000000.tar").read_bytes() == (workspace / "two" / "000000.tar").read_bytes()


@pytest.mark.parametrize("guide", [Grey(bad="a1"), Grey(bad="b0")])
def test_a_failing_video_costs_itself_only(workspace: Path, guide: Grey) -> None:
    result = run(guide, workspace, 0)
    bad = "a.mp4" if guide.bad == "a1" else "b.mp4"
    assert [(row["video_id"], row["error"]) for row in result.failures] == [(bad, "RuntimeError")]
    for row in result.rows:
        assert (row["maps"] == 0) == (row["key"] == video_key(bad))
    samples = dict(iter_shard(workspace / "out" / "000000.tar"))
    assert guide_meta(samples[video_key(bad)]["json"], bad).missing == "RuntimeError: the model chokes"


def test_nan_scores_are_a_failure_with_its_reason(workspace: Path) -> None:
    class NaN(Grey):
        def score(self, chunks: Iterable[Frames], captions: list[str]) -> Scores:
            scores = super().score(chunks, captions)
            assert scores.maps is not None
            scores.maps[-1, 2, 0, 0] = np.nan
            return scores

    result = run(NaN(), workspace, 0)
    assert len(result.failures) == 2 and "NaN" in result.failures[0]["message"]


@pytest.mark.parametrize("guide", ["grey", "motion"])
def test_damaged_clips(workspace: Path, guide: str) -> None:
    """One whose mp4 is damaged, one with fewer frames than the index says; their neighbours go on."""
    samples: list[tuple[str, Fields]] = list(iter_shard(workspace / "clips" / "000000.tar"))
    good = dict(samples[1][1])
    samples[0][1]["mp4"] = b"\0" * 2000
    samples += [("x" * 16, {"json": good["json"], "mp4": mp4(5)}), ("y" * 16, good)]
    places = write_shard(workspace / "clips" / "000000.tar", samples)
    names = ["a.mp4", "b.mp4", "short.mp4", "good.mp4"]
    keys = [key for key, _ in samples]
    rows = [
        {"key": key, "video_id": name, "shard": 0, "offset": offset, "length": length, "frames": 9, "split": ""}
        for key, name, (offset, length) in zip(keys, names, places, strict=True)
    ]
    write_table(workspace / "clips" / "index.parquet", rows, CLIP_INDEX)
    captions = [{"key": key, "video_id": "v", "caption": 0, "text": "t"} for key in keys]
    write_table(workspace / "captions" / "oracle" / "captions.parquet", captions, CAPTIONS)
    if guide == "grey":
        result = run(Grey(), workspace, 0)
    else:
        motion = MotionGuide(Motion(frame_stride=STRIDE))
        result = run(motion, workspace, 0, speaks=False, read=CodecMotion(16))
    assert [(row["video_id"], row["error"]) for row in result.failures] == [
        ("a.mp4", "NotAVideo"),
        ("short.mp4", "NoFrames"),
    ]
    assert "has 5 frames, its index says 9" in result.failures[1]["message"]
    assert [row["maps"] for row in result.rows] == [0, 1, 0, 1]


def test_a_tar_that_does_not_fit_its_index_stops_the_stage(workspace: Path) -> None:
    tar = workspace / "clips" / "000000.tar"
    (one, first), (two, second) = iter_shard(tar)
    write_shard(tar, [(two, first), (one, second)])
    with pytest.raises(UserError, match="do not belong together"):
        run(Grey(), workspace, 0)
    assert not (workspace / "out" / "000000.tar").exists()
    tar.unlink()
    with pytest.raises(UserError, match="is missing"):
        run(Grey(), workspace, 0)


@pytest.mark.parametrize(("frames", "stride"), [(1, 4), (8, 4), (9, 4), (70, 1), (5, 9)])
def test_scored_frames(frames: int, stride: int) -> None:
    data = mp4(frames)
    chunks = list(scored_frames(data, stride, frames))
    assert sum(map(len, chunks)) == -(-frames // stride)
    assert all(len(chunk) == CHUNK for chunk in chunks[:-1])
    whole = np.concatenate(list(scored_frames(data, 1, frames)))
    assert np.array_equal(np.concatenate(chunks), whole[::stride])
    with pytest.raises(NoFrames):
        list(scored_frames(data, stride, frames + 1))
    with pytest.raises(VideoError):
        list(scored_frames(b"not a video", stride, frames))


def tiny_encoder(folder: Path, *, nan: bool = False) -> str:
    """An open_clip model as a local-dir: model. Called again it is another model under the same name."""
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    weights = {name: value.contiguous() for name, value in open_clip.CLIP(**config).state_dict().items()}
    if nan:
        weights["visual.proj"][:] = torch.nan
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return f"local-dir:{folder}"


def experiment(root: Path, **text: Any) -> Experiment:
    options = Text(device="cpu", frame_stride=STRIDE, **{"model": "local-dir:none", **text})
    return Experiment(workspace=str(root), captions="oracle", text=options, ray=Ray(address="none"), max_failures="90%")


@pytest.mark.parametrize("nan", [False, True])
def test_the_text_guide_through_the_worker(workspace: Path, nan: bool) -> None:
    name = tiny_encoder(workspace / "model", nan=nan)
    results = [run(TextGuide(TextEncoder(Text(model=name, device="cpu"))), workspace, 0, out) for out in ("one", "two")]
    assert (workspace / "one" / "000000.tar").read_bytes() == (workspace / "two" / "000000.tar").read_bytes()
    assert [row["maps"] for row in results[0].rows] == ([0, 0] if nan else [3, 2])
    assert ["NaN" in row["message"] for row in results[0].failures] == ([True, True] if nan else [])


def test_captions_that_do_not_cover_the_clips(workspace: Path) -> None:
    make_captions(workspace, {"a.mp4": ["a"], "c.mp4": ["c"]})
    with pytest.raises(UserError, match=r"does not cover the clips: 1 of 4 .*b\.mp4.*tgmae caption .* --source oracle"):
        run_guide(experiment(workspace))


def test_captions_of_another_manifest(workspace: Path) -> None:
    make_captions(workspace, CAPTIONED, manifest="other")
    with pytest.raises(UserError, match="different manifests"):
        run_guide(experiment(workspace))


def test_no_captions_at_all(workspace: Path) -> None:
    (workspace / "captions" / "oracle" / "stage.json").unlink()
    with pytest.raises(UserError, match=r"tgmae caption .* --source oracle"):
        run_guide(experiment(workspace))


@pytest.mark.timeout(180)
def test_both_stages(uncaptioned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = experiment(uncaptioned, model=tiny_encoder(uncaptioned / "model"))

    captions = run_caption(chosen)
    assert captions.counts == {"done": 3, "failed": 0, "skipped": 1, "shards": 1} and not captions.failed
    rows = read_table(uncaptioned / "captions" / "oracle" / "captions.parquet", CAPTIONS).to_pylist()
    assert [row["key"] for row in rows] == sorted(video_key(name) for name in CAPTIONED)
    assert {row["text"] for row in rows} == {"spinning"}

    guide = run_guide(chosen)
    assert guide.counts == {"done": 4, "failed": 0, "shards": 2}
    assert "1 of 4 videos have no caption" in capsys.readouterr().err
    folder = uncaptioned / "guides" / "text-oracle"
    index = read_table(folder / "index.parquet", GUIDE_INDEX).to_pylist()
    clips = read_table(uncaptioned / "clips" / "index.parquet", CLIP_INDEX).to_pylist()
    assert [(row["key"], row["shard"]) for row in index] == [(row["key"], row["shard"]) for row in clips]
    assert [row["maps"] for row in index] == [1, 1, 0, 1]
    first = (folder / "000000.tar").read_bytes()
    assert run_guide(chosen) == guide == read_record(folder)

    weights = uncaptioned / "model" / "open_clip_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "visual.proj": tensors["visual.proj"] + 0.1 * torch.randn(32, 8)}, weights)
    reasons = guide_spec(chosen).differences(guide)
    assert len(reasons) == 1 and reasons[0].startswith("weights: ")
    assert run_guide(chosen).fingerprint != guide.fingerprint
    assert (folder / "000000.tar").read_bytes() != first


MINE = """
import numpy as np
from pipeline.guides import Scores

class Levels:
    def __init__(self, experiment): ...

    def score(self, chunks, captions):
        return Scores(np.concatenate([frames.mean(-1) for frames in chunks])[None])
"""


@pytest.mark.medium
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("guide", "maps", "tools"),
    [
        ("embeddings", [1, 1, 0, 1], {"open_clip_torch", "torch", "webdataset"}),
        ("motion-vectors", [1] * 4, {"numpy", "av", "webdataset"}),
        ("optical-flow", [4] * 4, {"opencv-python-headless", "av", "webdataset"}),
        ("levels:Levels", [1] * 4, {"av", "webdataset"}),
    ],
)
def test_every_guide(
    uncaptioned: Path, monkeypatch: pytest.MonkeyPatch, guide: str, maps: list[int], tools: set[str]
) -> None:
    """Without captions where it needs none; stopped half way, it ends with the same bytes."""
    monkeypatch.chdir(uncaptioned)
    (uncaptioned / "levels.py").write_text(MINE)
    chosen = experiment(uncaptioned, model=tiny_encoder(uncaptioned / "model")).model_copy(
        update={"guide": guide, "motion": Motion(frame_stride=2), "flow": Flow(frame_stride=3)}
    )
    if guide == "embeddings":
        make_captions(uncaptioned, {name: ["spinning"] for name in NAMES if name != "silent.mp4"})
    assert ("captions" in guide_spec(chosen).inputs) == (guide == "embeddings")

    whole = run_guide(chosen)
    assert whole.counts == {"done": 4, "failed": 0, "shards": 2} and whole.tools.keys() == {"python", *tools}
    assert 0 <= whole.info.get("waited", 0) <= 1 and ("waited" in whole.info) == (guide != "embeddings")
    folder = uncaptioned / "guides" / str(chosen.guide_name)
    index = read_table(folder / "index.parquet", GUIDE_INDEX).to_pylist()
    assert [row["maps"] for row in index] == maps
    tars = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    shutil.rmtree(folder)

    units, own = [Unit(shard, clip_rows(uncaptioned, shard)) for shard in (0, 1)], recipe(chosen)
    texts = uncaptioned / "captions" / "oracle" if guide == "embeddings" else None
    worker = GuideWorker(own.make(), uncaptioned / "clips", texts, folder, own.frame_stride, own.read)
    with pytest.raises(KeyboardInterrupt), building(guide_spec(chosen), units):
        *_, first = worker.run(units[0])
        assert isinstance(first, ShardResult)
        keep_result(folder, first)
        raise KeyboardInterrupt
    made = (folder / "000000.tar").stat().st_mtime_ns
    again = run_guide(chosen)
    assert again.output == whole.output
    assert {path.name: path.read_bytes() for path in folder.glob("*.tar")} == tars
    assert (folder / "000000.tar").stat().st_mtime_ns == made


def test_an_error_that_is_held_holds_no_thread(workspace: Path) -> None:
    """Python waits for every thread at its end, and these would wait for their consumer."""

    def chunks(data: bytes, stride: int, frames: int) -> Iterator[Frames]:
        yield from (np.zeros((1, 32, 64, 3), np.uint8) for _ in range(9))

    index = read_table(workspace / "clips" / "index.parquet", CLIP_INDEX).to_pylist()
    worker = GuideWorker(
        Broken(), workspace / "clips", workspace / "captions" / "oracle", workspace / "out", STRIDE, chunks, threads=2
    )
    before = set(threading.enumerate())
    with pytest.raises(UserError, match="the model is broken") as held:
        list(worker.run(Unit(0, index[:2])))
    assert set(threading.enumerate()) <= before and held.tb is not None
