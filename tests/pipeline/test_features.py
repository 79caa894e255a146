"""The feature cache: what it loses, what it refuses, and the stage that makes it."""

from __future__ import annotations

import io
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.features import FeaturesWorker, run_features
from pipeline.guide import run_guide, units
from pipeline.guides.cache import MEMBER, Basis, BrokenFeatures, CachedFeatures, fit_basis, pack
from pipeline.guides.encoder import TextEncoder
from pipeline.runtime.kept import joined, keep_result
from pipeline.runtime.stage_folder import building
from pipeline.runtime.tars import iter_shard
from pipeline.runtime.units import Made, ShardResult, Unit
from pipeline.stage_specs import features_spec, guide_spec
from schemas.config import Experiment, Text
from schemas.errors import UserError
from schemas.shards import dequantize, guide_meta, npy_array, npy_bytes
from schemas.tables import CLIP_INDEX, FAILURES, read_table
from tests.pipeline.test_guide import CAPTIONED, NAMES, STRIDE, make_captions, make_clips, tiny_encoder
from tests.pipeline.test_guide import experiment as plain

NAME = "000000.basis.npz"


def features(seed: int, frames: int, grid: tuple[int, int] = (3, 4), width: int = 16) -> Any:
    """Embeddings of length 1 that vary along few directions, slowly in time, as those of a video: [F, gh, gw, D]."""
    rng = np.random.default_rng(seed)
    along = rng.normal(size=(1, *grid, 6)) + 0.1 * rng.normal(size=(frames, *grid, 6)).cumsum(0)
    found = along @ rng.normal(size=(6, width)) + rng.normal(size=width)
    return (found / np.linalg.norm(found, axis=-1, keepdims=True)).astype(np.float32)


def saved(folder: Path, kept: float = 0.999, seed: int = 0) -> Basis:
    basis = fit_basis([features(seed, 8)], kept)
    assert basis is not None
    (folder / NAME).write_bytes(basis.save())
    return basis


@settings(max_examples=40)
@given(bits=st.integers(2, 8), seed=st.integers(0, 9), counts=st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_codes_are_the_nearest_to_the_coordinates(
    tmp_path_factory: pytest.TempPathFactory, bits: int, seed: int, counts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("codes")
    basis = saved(folder)
    chunks = [10 * features(seed + n, count) for n, count in enumerate(counts)]
    data = pack(iter(chunks), NAME, basis, bits)
    found = list(CachedFeatures(folder)(data, 3, 3 * sum(counts) - 2))
    assert [codes.codes_dFhw.shape[1] for codes in found] == counts
    for chunk, codes in zip(chunks, found, strict=True):
        along = (chunk - basis.mean_D) @ basis.axes_Dd.astype(np.float32)
        assert np.abs(codes.codes_dFhw).max() <= 2 ** (bits - 1) - 1
        decoded = np.moveaxis(codes.codes_dFhw * np.float32(codes.step), 0, -1)
        assert np.abs(decoded - along).max() <= 0.5001 * codes.step


def test_scores_are_those_of_the_coordinates(tmp_path: Path) -> None:
    basis, text_CD = saved(tmp_path), features(5, 3, (1, 1))[:, 0, 0]
    (codes,) = CachedFeatures(tmp_path)(pack([features(1, 4)], NAME, basis, 8), 1, 4)
    decoded = np.moveaxis(codes.codes_dFhw * np.float32(codes.step), 0, -1)
    whole_FhwD = basis.mean_D + decoded @ basis.axes_Dd.astype(np.float32).T
    np.testing.assert_allclose(codes.scores(text_CD), np.einsum("fhwd,cd->cfhw", whole_FhwD, text_CD), atol=1e-5)


def test_the_basis_holds_the_share_of_variance_and_leaves_out_what_is_not_finite() -> None:
    sample = [features(n, 4) for n in range(3)]
    rows_ND = np.concatenate([each.reshape(-1, 16) for each in sample]).astype(np.float64)
    broken = sample[0].copy()
    broken[0] = np.nan
    for kept in (0.5, 0.9, 0.999):
        basis = fit_basis(sample, kept)
        assert basis is not None
        centred = rows_ND - rows_ND.mean(0)
        left = np.linalg.svd(centred, compute_uv=False) ** 2
        count = int(np.argmax(left.cumsum() / left.sum() >= kept)) + 1  # an independent way to the same number
        assert basis.axes_Dd.shape == (16, count)
        along = centred @ basis.axes_Dd.astype(np.float64)
        assert (along**2).sum() / (centred**2).sum() >= kept - 1e-3
    whole = fit_basis(sample, 1)
    assert whole is not None and whole.axes_Dd.shape[1] >= 7  # all that embeddings of seven directions need
    one = fit_basis([np.ones((2, 3, 4, 16), np.float32)], 0.9)
    assert one is not None and one.axes_Dd.shape == (16, 1)
    finite = fit_basis([broken[1:], *sample[1:]], 0.9)
    found = fit_basis([broken, *sample[1:]], 0.9)
    assert found is not None and finite is not None and found.save() == finite.save()
    assert fit_basis([np.full((1, 2, 2, 4), np.nan, np.float32)], 0.9) is None


def test_nan_and_no_frames_are_refused(tmp_path: Path) -> None:
    basis, broken = saved(tmp_path), features(1, 2)
    broken[1, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        pack([broken], NAME, basis, 8)
    with pytest.raises(ValueError, match="no frame"):
        pack([], NAME, basis, 8)


def header(data: bytes, **changes: Any) -> bytes:
    line, _, body = data.partition(b"\n")
    return json.dumps({**json.loads(line), **changes}).encode() + b"\n" + body


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data[:-1],  # all codes are there, the end of their checksum is not
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"",
        lambda data: data.replace(b"\n", b"", 1),
        lambda data: header(data, basis="../000000.basis.npz"),
        lambda data: header(data, basis="/etc/passwd"),
        lambda data: header(data, basis="000009.basis.npz"),
        lambda data: header(data, grid=[3, -4]),
        lambda data: header(data, grid=[4, 4]),
        lambda data: header(data, grid=[10**6, 10**6]),
        lambda data: header(data, dims=5000),
        lambda data: header(data, dims=1),
        lambda data: header(data, chunks=[[4, float("nan")]]),
        lambda data: header(data, chunks=[[4, 0.0]]),
        lambda data: header(data, chunks=[[3, 1.0]]),
        lambda data: header(data, chunks=[[5, 1.0], [-1, 1.0]]),
        lambda data: data.partition(b"\n")[0] + b"\n" + zlib.compress(bytes(10**7)),
    ],
)
def test_what_a_stranger_wrote_is_a_broken_video_and_no_more(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "in").mkdir()
    basis = saved(tmp_path / "in")
    shutil.copy(tmp_path / "in" / NAME, tmp_path / NAME)  # what ../ would find
    data = pack([features(1, 4)], NAME, basis, 8)
    read = CachedFeatures(tmp_path / "in")
    assert len(list(read(data, 1, 4))) == 1
    with pytest.raises(BrokenFeatures):
        list(read(damage(data), 1, 4))


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:-30],
        lambda whole: whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
        lambda whole: b"no zip at all",
        lambda whole: npy_bytes(np.zeros((16, 6))),
        lambda whole: npz(mean=np.zeros(16, np.float32)),
        lambda whole: npz(mean=np.zeros(16, np.float32), axes=np.zeros(16, np.float16)),
        lambda whole: npz(mean=np.zeros(15, np.float32), axes=np.zeros((16, 6), np.float16)),
        lambda whole: npz(mean=np.zeros(16, np.float32), axes=np.array([["a"] * 6] * 16)),
        lambda whole: npz(mean=np.zeros(16, np.float32), axes=np.array([[{}] * 6] * 16)),  # a pickle: not opened
    ],
)
def test_a_broken_basis_breaks_videos_and_not_the_stage(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    data = pack([features(1, 4)], NAME, saved(tmp_path), 8)
    (tmp_path / NAME).write_bytes(damage((tmp_path / NAME).read_bytes()))
    with pytest.raises(BrokenFeatures):
        list(CachedFeatures(tmp_path)(data, 1, 4))


def cached(root: Path, **text: Any) -> Experiment:
    return plain(root, model=f"local-dir:{root / 'model'}", cache=True, cache_kept=0.9999, **text)


def maps(folder: Path) -> dict[str, Any]:
    """Scores by key, as the trainer reads them."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        for key, sample in iter_shard(path):
            meta = guide_meta(sample["json"], key)
            if meta.missing is None:
                stored = npy_array(sample["scores.npy"])
                found[key] = np.stack([dequantize(*each) for each in zip(stored, meta.scale, meta.offset, strict=True)])
    return found


@pytest.mark.medium
@pytest.mark.timeout(300)
def test_a_guide_from_the_cache_is_nearly_the_guide_from_the_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one is rebuilt when the other is asked for. Another caption set leaves the cache as it is."""
    make_clips(tmp_path, NAMES)
    make_captions(tmp_path, CAPTIONED)
    tiny_encoder(tmp_path / "model")
    chosen = cached(tmp_path)
    with pytest.raises(UserError, match="tgmae features"):
        run_guide(chosen)
    record = run_features(chosen)
    assert record.counts == {"done": 4, "failed": 0, "shards": 2}
    folder = tmp_path / "features" / "model-crops"
    assert sorted(path.name for path in folder.iterdir()) == [
        "000000.basis.npz", "000000.tar", "000001.basis.npz", "000001.tar", "failures.parquet", "index.parquet",
        "stage.json",
    ]  # fmt: skip
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    guide = run_guide(chosen)
    assert guide.counts == {"done": 4, "failed": 0, "shards": 2} and guide.info["features"] == "model-crops"
    from_cache = maps(tmp_path / "guides" / "text-oracle")
    capsys.readouterr()
    run_guide(cached(tmp_path).model_copy(update={"text": chosen.text.model_copy(update={"cache": False})}))
    assert "because features changed" in capsys.readouterr().err
    direct = maps(tmp_path / "guides" / "text-oracle")
    assert from_cache.keys() == direct.keys() and len(direct) == 3  # one video has no caption
    for key, expected in direct.items():
        spread = expected.max() - expected.min()
        assert np.abs(from_cache[key] - expected).max() < 0.05 * spread
    make_captions(tmp_path, {name: ["another", "text"] for name in CAPTIONED})
    run_guide(chosen)
    again = maps(tmp_path / "guides" / "text-oracle")
    assert again.keys() == direct.keys() and {len(each) for each in again.values()} == {2}  # a map a caption
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


@pytest.mark.medium
@pytest.mark.timeout(300)
def test_dense_embeddings_have_a_cache_beside_that_of_the_crops(tmp_path: Path) -> None:
    make_clips(tmp_path, NAMES)
    make_captions(tmp_path, CAPTIONED)
    tiny_encoder(tmp_path / "model")
    crops, dense = cached(tmp_path), cached(tmp_path, method="dense")
    of_crops = run_features(crops)
    assert run_features(dense).output != of_crops.output
    assert run_features(crops) == of_crops  # still there
    assert run_guide(dense).info["features"] == "model-dense"
    from_cache = maps(tmp_path / "guides" / "text-oracle")
    run_guide(dense.model_copy(update={"text": dense.text.model_copy(update={"cache": False})}))
    direct = maps(tmp_path / "guides" / "text-oracle")
    assert from_cache.keys() == direct.keys() and len(direct) == 3
    for key, expected in direct.items():
        assert np.abs(from_cache[key] - expected).max() < 0.05 * (expected.max() - expected.min())
    run_guide(crops)
    of_crops_maps = maps(tmp_path / "guides" / "text-oracle")
    assert not any(np.allclose(of_crops_maps[key], direct[key], atol=1e-3) for key in direct)


@pytest.mark.timeout(300)
def test_stale_features_are_refused_with_the_reason(tmp_path: Path) -> None:
    make_clips(tmp_path, NAMES)
    make_captions(tmp_path, CAPTIONED)
    tiny_encoder(tmp_path / "model")
    record = run_features(cached(tmp_path))
    assert run_features(cached(tmp_path)) == record  # made once
    with pytest.raises(UserError, match=r"frame_stride: 2 -> 3.*tgmae features"):
        guide_spec(cached(tmp_path).model_copy(update={"text": cached(tmp_path).text.model_copy(
            update={"frame_stride": 3})}))  # fmt: skip
    tiny_encoder(tmp_path / "model")  # other weights under the same name
    with pytest.raises(UserError, match=r"model-crops does not fit: weights: .*tgmae features"):
        run_guide(cached(tmp_path))
    assert run_features(cached(tmp_path)).output != record.output
    dense = cached(tmp_path, method="dense")
    assert features_spec(dense).folder.name == "model-dense"  # next to the other, not in its place


@pytest.mark.medium
@pytest.mark.timeout(300)
def test_stopped_half_way_it_ends_with_the_same_bytes_and_a_broken_video_costs_itself_only(tmp_path: Path) -> None:
    index = make_clips(tmp_path, NAMES)
    make_captions(tmp_path, CAPTIONED)
    tiny_encoder(tmp_path / "model")
    chosen, path = cached(tmp_path), tmp_path / "clips" / "000000.tar"
    row = next(row for row in index if row["video_id"] == "a.mp4")
    data = bytearray(path.read_bytes())
    start = data.index(b"ftyp", row["offset"])
    data[start : start + 40] = bytes(40)  # no mp4 any more
    path.write_bytes(data)
    whole = run_features(chosen)
    folder = tmp_path / "features" / "model-crops"
    failures = read_table(folder / "failures.parquet", FAILURES).to_pylist()
    assert [row["video_id"] for row in failures] == ["a.mp4"] and failures[0]["stage"] == "features"
    made = {path.name: path.read_bytes() for path in folder.glob("0*")}
    shutil.rmtree(folder)
    rows = units(read_table(tmp_path / "clips" / "index.parquet", CLIP_INDEX).to_pylist())
    worker = FeaturesWorker(TextEncoder(chosen.text).features, tmp_path / "clips", folder, chosen.text)
    with pytest.raises(KeyboardInterrupt), building(features_spec(chosen), rows):
        *_, first = worker.run(rows[0])
        assert isinstance(first, ShardResult)
        keep_result(folder, first)
        (folder / "000001.basis.npz").write_bytes(b"of a run with other threads")  # written before its tar, then killed
        raise KeyboardInterrupt
    written = (folder / "000000.tar").stat().st_mtime_ns
    assert run_features(chosen).output == whole.output
    assert {path.name: path.read_bytes() for path in folder.glob("0*")} == made
    assert (folder / "000000.tar").stat().st_mtime_ns == written
    guide = run_guide(chosen)
    assert guide.counts == {"done": 3, "failed": 1, "shards": 2}
    told = read_table(tmp_path / "guides" / "text-oracle" / "failures.parquet", FAILURES).to_pylist()
    assert [row["video_id"] for row in told] == ["a.mp4"] and "features: " in told[0]["message"]


def test_an_encoder_that_gives_nan_is_said_of_every_video(tmp_path: Path) -> None:
    make_clips(tmp_path, NAMES)
    name = tiny_encoder(tmp_path / "model", nan=True)
    options = Text(model=name, device="cpu", frame_stride=STRIDE)
    (tmp_path / "out").mkdir()
    worker = FeaturesWorker(TextEncoder(options).features, tmp_path / "clips", tmp_path / "out", options)
    (unit, *_) = units(read_table(tmp_path / "clips" / "index.parquet", CLIP_INDEX).to_pylist())
    *_, result = worker.run(unit)
    assert isinstance(result, ShardResult)
    assert ["encoder is broken" in row["message"] for row in result.failures] == [True] * 2
    for _, sample in iter_shard(tmp_path / "out" / "000000.tar"):
        assert MEMBER not in sample


@pytest.mark.timeout(300)
def test_a_shard_in_parts_is_coded_in_one_basis_and_leaves_the_same_bytes(tmp_path: Path) -> None:
    """Each part in a worker of its own, the last one first: the basis is of the whole shard, whoever fits it."""
    make_clips(tmp_path, NAMES)
    name = tiny_encoder(tmp_path / "model")
    options = Text(model=name, device="cpu", frame_stride=STRIDE)
    (unit, *_) = units(read_table(tmp_path / "clips" / "index.parquet", CLIP_INDEX).to_pylist())
    results = []
    for folder, parts in (("whole", [unit]), ("parts", [Unit(0, unit.rows[n:][:1], n, whole=False) for n in (1, 0)])):
        for part in parts:
            (tmp_path / folder).mkdir(exist_ok=True)
            worker = FeaturesWorker(TextEncoder(options).features, tmp_path / "clips", tmp_path / folder, options)
            *_, result = worker.run(part)
            assert isinstance(result, ShardResult)
            results.append(Made(part, result))
    joined(tmp_path / "parts", results[1:])
    whole, parts = (
        {path.name: path.read_bytes() for path in (tmp_path / each).glob("0*")} for each in ("whole", "parts")
    )
    assert whole.keys() == {"000000.tar", "000000.basis.npz"} and parts == whole
