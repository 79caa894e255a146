"""The stream: the same clips whatever the workers, ranks and restarts; and what damaged shards answer."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.shards import npy_bytes
from schemas.stage import required_record, write_record
from schemas.tables import CLIP_INDEX, GUIDE_INDEX, read_table, table, write_table
from schemas.tar_sample import slice_samples
from schemas.workspace import Workspace
from tests.train.conftest import write_sidecar, write_tar
from train.data.augment import multi_scale_crop
from train.data.reading import decode, read_clip, read_guidance
from train.data.sampling import BatchPlan, digest64, epoch_order, generator, random_frames, spread_frames
from train.data.stream import Batch, ClipDataset, stream, text_width
from train.data.videos import guide_command, open_videos, videos_to_pretrain_on
from train.masking.masks import top_k
from train.models.sizes import model_config

Small = Callable[..., Experiment]
SHARDS = np.repeat(np.arange(7), [5, 3, 9, 1, 4, 6, 2])


def dataset(experiment: Experiment) -> ClipDataset:
    workspace = Workspace(Path(experiment.workspace))
    videos, _ = videos_to_pretrain_on(workspace, experiment.guide_name, experiment.text_name)
    return ClipDataset(videos, experiment, model_config(experiment).grid)


def batches(experiment: Experiment, *, workers: int = 0, **plan: Any) -> list[Batch]:
    data = dataset(experiment)
    options: dict[str, Any] = {"seed": 0, "epochs": 2, "batch_size": 4, "repeats": experiment.clip.repeats, **plan}
    return list(stream(data, BatchPlan(data.videos.column("shard"), **options), workers=workers, pin=False))


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(a, b, strict=True)
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)  # type: ignore[arg-type]


@given(st.integers(0, 5), st.integers(0, 50), st.integers(1, 9))
def test_an_epoch_is_a_permutation_that_stays_within_blocks_of_shards(seed: int, epoch: int, block: int) -> None:
    order = epoch_order(SHARDS, seed=seed, epoch=epoch, block=block)
    assert sorted(order) == list(range(len(SHARDS)))
    assert np.array_equal(order, epoch_order(SHARDS, seed=seed, epoch=epoch, block=block))
    seen = SHARDS[order]
    first, last = ({s: f(np.flatnonzero(seen == s)) for s in range(7)} for f in (min, max))
    for row in range(len(seen)):  # never more than `block` shards are half read
        assert sum(first[s] <= row <= last[s] for s in range(7)) <= block


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(SHARDS, seed=s, epoch=e, block=2)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


def test_generators_do_not_depend_on_the_process() -> None:
    assert digest64("a caption") == 5338431581126396098
    assert generator(1, 2, "key", "crop").random() == generator(1, 2, "key", "crop").random()
    assert generator(1, 2, "key", "crop").random() != generator(1, 2, "key", "flip").random()


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 3]), st.integers(0, 4), st.sampled_from([1, 2, 3]))
def test_ranks_partition_every_micro_batch(world: int, accumulate: int, start: int, repeats: int) -> None:
    options: dict[str, Any] = {"shards": SHARDS, "seed": 3, "epochs": 3, "batch_size": 12 * repeats,
                               "accumulate": accumulate, "repeats": repeats}  # fmt: skip
    plan = BatchPlan(**options, start=start)
    whole = list(plan)
    parts = [list(BatchPlan(**options, start=start, world=world, rank=rank)) for rank in range(world)]
    assert [list(chain(*micro)) for micro in zip(*parts, strict=True)] == whole
    assert len(whole) == len(plan) == (3 * 2 - start) * accumulate
    assert whole == list(BatchPlan(**options))[start * accumulate :]
    assert all(len(micro) * repeats == plan.clips_per_rank for micro in whole)
    # An epoch sees a video once, whatever the repeats.
    assert len(set(chain(*whole))) == len(list(chain(*whole))) == (3 * 2 - start) * 12


def test_too_few_videos_and_batches_that_cannot_be_cut() -> None:
    with pytest.raises(UserError, match="30 videos to train on, too few for one batch of 64"):
        BatchPlan(SHARDS, seed=0, epochs=1, batch_size=64)
    with pytest.raises(UserError, match="not a multiple of accumulate x processes x repeats = 1 x 3 x 1"):
        BatchPlan(SHARDS, seed=0, epochs=1, batch_size=8, world=3)
    with pytest.raises(UserError, match="= 1 x 2 x 3"):
        BatchPlan(SHARDS, seed=0, epochs=1, batch_size=8, world=2, repeats=3)


@given(st.integers(1, 80), st.integers(1, 16), st.integers(1, 5), st.integers(0, 99))
def test_frames_are_evenly_spaced_and_stay_on_stride(total: int, frames: int, stride: int, seed: int) -> None:
    chosen = random_frames(total, frames=frames, stride=stride, rng=np.random.default_rng(seed))
    assert chosen.shape == (frames,) and chosen[0] >= 0 and chosen[-1] < total
    if total >= frames * stride:
        assert set(np.diff(chosen)) <= {stride}
    else:
        on_stride = list(range(0, total, stride))[:frames]  # then the last of them again and again, as VideoMAE does
        assert chosen.tolist() == on_stride + on_stride[-1:] * (frames - len(on_stride))


def test_the_last_frame_on_stride_is_repeated() -> None:
    assert random_frames(50, frames=15, stride=4, rng=np.random.default_rng(0))[-4:].tolist() == [44, 48, 48, 48]


def test_views_are_spread() -> None:
    starts = [int(v[0]) for v in spread_frames(20, frames=4, stride=2, views=3)]
    assert starts == [0, 6, 12]
    assert int(spread_frames(20, frames=4, stride=2, views=1)[0][0]) == 6
    assert [list(v) for v in spread_frames(3, frames=4, stride=2, views=2)] == [[0, 2, 2, 2]] * 2


def test_batches_do_not_depend_on_workers(small: Small) -> None:
    experiment = small(objective={"contrastive": 1.0}, clip={"repeats": 2}, mask={"decoder_ratio": 0.5})
    alone, two = batches(experiment), batches(experiment, workers=2)
    assert len(alone) == len(two) == 2 * (13 // 2)
    assert all(map(same, alone, two))


def test_the_stream_starts_anywhere(small: Small) -> None:
    experiment = small(objective={"contrastive": 1.0})
    whole = batches(experiment, accumulate=2)
    for start in (1, 3, 5):
        assert all(map(same, whole[2 * start :], batches(experiment, accumulate=2, start=start)))


def test_what_a_batch_holds(small: Small) -> None:
    experiment = small(objective={"contrastive": 1.0}, mask={"ratio": 0.6})
    batch = batches(experiment)[0]
    assert batch.clip_BTHWC.shape == (4, 4, 32, 32, 3) and batch.clip_BTHWC.dtype == torch.uint8
    assert batch.mask_BN.shape == (4, 2 * 16) and batch.mask_BN.sum(1).tolist() == [20] * 4  # 10 of 16, twice
    assert batch.text_BD is not None and batch.text_BD.shape == (4, 12) and batch.text_BD.dtype == torch.float32
    assert batch.visible_index_BV.shape == (4, 12) and batch.predicted_index_BM.shape == (4, 20)
    assert batch.weight_BM is None and batch.mask_BN.gather(1, batch.predicted_index_BM).all()
    assert len(set(batch.keys)) == 4 and set(batch.label_B.tolist()) <= {0, 1}
    assert text_width(dataset(experiment).videos, "text-blip2") == 12
    plain = batches(small(mask={"kind": "tube"}, guide="none"))[0]
    assert plain.text_BD is None and plain.caption_id_B.tolist() == [0] * 4


def test_other_masks_see_the_same_clips(small: Small) -> None:
    guided, tube = batches(small()), batches(small(mask={"kind": "tube"}))
    for a, b in zip(guided, tube, strict=True):
        assert torch.equal(a.clip_BTHWC, b.clip_BTHWC) and not torch.equal(a.mask_BN, b.mask_BN)


def test_only_the_asked_frames_in_the_asked_order(workspace: Workspace) -> None:
    """Seeking agrees with sequential decoding, at B-frames and across groups of pictures."""
    meta, mp4 = read_clip(open_videos(workspace).clip_place(0))
    with av.open(io.BytesIO(mp4)) as container:
        every = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    for numbers in ([0], [19], [3, 5, 7, 9], [11, 12, 13], [2, 9, 9, 9], [18, 1, 13]):
        got = decode(mp4, np.asarray(numbers), meta, "here")
        assert np.abs(got.astype(int) - every[numbers]).max() <= 3  # converters round differently


def test_a_short_video_is_padded_not_dropped(small: Small) -> None:
    data = dataset(small(mask={"kind": "tube"}))
    rows = [row for row in range(len(data.videos)) if data.videos.strings("video_id")[row] == "fast/003.mp4"]
    clip = data.samples(0, rows[0])[0].clip_THWC  # 3 frames, stride 2: frames 0, 2, 2, 2
    assert not torch.equal(clip[0], clip[1]) and torch.equal(clip[1], clip[2]) and torch.equal(clip[2], clip[3])


def test_videos_without_a_map_are_left_out_and_counted(workspace: Workspace) -> None:
    videos, left_out = videos_to_pretrain_on(workspace, "text-blip2")
    assert (len(videos), left_out) == (13, {"not in guides/text-blip2": 1}) and "fast/005.mp4" not in videos.strings(
        "video_id"
    )
    assert len(videos_to_pretrain_on(workspace, None)[0]) == 14


def test_only_the_training_split_is_pretrained_on(workspace: Workspace) -> None:
    path = workspace.clips / "index.parquet"
    rows = read_table(path, CLIP_INDEX).to_pylist()
    write_table(path, [{**row, "split": "val" if i < 4 else "train"} for i, row in enumerate(rows)], CLIP_INDEX)
    assert len(videos_to_pretrain_on(workspace, None)[0]) == 10
    write_table(path, [{**row, "split": "val"} for row in rows], CLIP_INDEX)
    with pytest.raises(UserError, match=r"no video to pretrain on.*\['val'\]"):
        videos_to_pretrain_on(workspace, None)


def test_a_guide_of_other_clips_is_refused(workspace: Workspace) -> None:
    folder = workspace.guide("text-blip2")
    before = required_record(folder, "")
    write_record(folder, before.model_copy(update={"inputs": {"clips": "another"}}))
    with pytest.raises(UserError, match="made from other clips.*tgmae guide .* --guide text --captions blip2"):
        open_videos(workspace, "text-blip2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "14 clips, but 13 rows"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "row 0 is .* in shard 0 there, but .* in shard 0 in the guide"),
        (lambda rows: [{**rows[0], "shard": 2}, *rows[1:]], "shard 0 there, but .* in shard 2"),
    ],
)
def test_a_guide_index_that_differs_is_refused(workspace: Workspace, change: Any, message: str) -> None:
    path = workspace.guide("text-blip2") / "index.parquet"
    write_table(path, table(change(read_table(path, GUIDE_INDEX).to_pylist()), GUIDE_INDEX), GUIDE_INDEX)
    with pytest.raises(UserError, match=message):
        open_videos(workspace, "text-blip2")


def test_a_stage_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `tgmae shard"):
        open_videos(Workspace(tmp_path), None)


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[:3000])
    elif how == "noise":
        path.write_bytes(bytes(255 - byte for byte in data))
    elif how == "shifted":
        path.write_bytes(data[512:] + bytes(512))
    elif how == "video":
        start = data.index(b"moov")
        path.write_bytes(data[:start] + bytes(200) + data[start + 200 :])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("how", ["cut", "noise", "shifted", "video"])
def test_damaged_shards_are_named(small: Small, workspace: Workspace, how: str, workers: int) -> None:
    for shard in workspace.clips.glob("*.tar"):
        spoil(shard, how)
    with pytest.raises(UserError, match=r"0000\d\d\.tar at byte \d+.*rebuild it") as caught:
        batches(small(mask={"kind": "tube"}), workers=workers)
    assert "Traceback" not in str(caught.value)
    if how == "video":
        assert "cannot be decoded" in str(caught.value) and ".mp4'" in str(caught.value)


def test_swapped_shards_are_noticed(small: Small, workspace: Workspace) -> None:
    a, b = (workspace.guide("text-blip2") / f"00000{n}.tar" for n in (0, 2))
    data_a, data_b = a.read_bytes(), b.read_bytes()
    a.write_bytes(data_b)
    b.write_bytes(data_a)
    with pytest.raises(UserError, match="the index says|not a sample"):
        batches(small())


def test_scores_that_are_no_array_or_another_are_named(small: Small, workspace: Workspace) -> None:
    path = workspace.guide("text-blip2") / "index.parquet"
    rows = read_table(path, GUIDE_INDEX).to_pylist()
    write_table(path, [{**row, "maps": 3 * bool(row["maps"])} for row in rows], GUIDE_INDEX)
    with pytest.raises(UserError, match=r"\[2\] score maps or captions, the index says 3"):
        batches(small())
    write_table(path, rows, GUIDE_INDEX)
    for shard in workspace.guide("text-blip2").glob("*.tar"):
        shard.write_bytes(shard.read_bytes().replace(b"NUMPY", b"XXXXX"))
    with pytest.raises(UserError, match="scores.npy of .* is not an array"):
        batches(small())


FOREIGN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what is wrong -> changes of the json, of the arrays
    "a stride below 1": ({"frame_stride": -4}, {}),
    "a stride without end": ({"frame_stride": 10**30}, {}),
    "too few scored frames": ({}, {"scores.npy": np.zeros((2, 3, 8, 12), np.uint8)}),
    "scores that are no bytes": ({}, {"scores.npy": np.zeros((2, 10, 8, 12), np.float64)}),
    "scores without a grid": ({}, {"scores.npy": np.zeros((2, 10, 0, 12), np.uint8)}),
    "a scale that is not finite": ({"scale": [float("nan"), 1.0]}, {}),
    "embeddings that are not finite": ({}, {"text.npy": np.full((2, 12), np.nan, np.float16)}),
    "embeddings that are numbers of another kind": ({}, {"text.npy": np.zeros((2, 12), np.int64)}),
}


@pytest.mark.parametrize("wrong", FOREIGN)
def test_a_foreign_guide_is_not_believed(small: Small, workspace: Workspace, wrong: str) -> None:
    changes, arrays = FOREIGN[wrong]
    folder, rows = workspace.guide("text-blip2"), []
    for path in sorted(folder.glob("*.tar")):
        samples = []
        for key, fields in slice_samples(path.read_bytes()):
            meta = json.loads(fields["json"])
            if meta["missing"] is None and meta["frames"] == 20:
                fields |= {"json": json.dumps(meta | changes).encode()}
                fields |= {name: npy_bytes(array) for name, array in arrays.items()}
            samples.append({"__key__": key, **fields})
        spans = write_tar(path, samples)
        rows += [(key, *span) for key, span in spans.items()]
    table = read_table(folder / "index.parquet", GUIDE_INDEX).to_pylist()
    placed = [{**row, "offset": offset, "length": length}
              for row, (_, offset, length) in zip(table, rows, strict=True)]  # fmt: skip
    write_table(folder / "index.parquet", placed, GUIDE_INDEX)
    with pytest.raises(UserError, match=r"guides/text-blip2/0000\d\d\.tar at byte \d+"):
        batches(small(objective={"contrastive": 1.0}))


@pytest.mark.parametrize("change", [{"offset": -512}, {"length": 2**40}, {"length": -1}])
def test_an_index_that_lies_is_refused_before_it_takes_memory(
    small: Small, workspace: Workspace, change: dict[str, int]
) -> None:
    path = workspace.clips / "index.parquet"
    rows = read_table(path, CLIP_INDEX).to_pylist()
    write_table(path, [{**row, **change} for row in rows], CLIP_INDEX)
    with pytest.raises(UserError, match="the shard ends"):
        batches(small(mask={"kind": "tube"}, guide="none"))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("text-blip2+llm", "--guide text --captions blip2+llm"),
        ("embeddings-oracle", "--guide embeddings --captions oracle"),
        ("motion-vectors", "--guide motion-vectors"),
        ("my.module.Guide", "--guide my.module:Guide"),
    ],
)
def test_an_error_names_the_command_that_makes_the_sidecar(workspace: Workspace, name: str, command: str) -> None:
    assert guide_command(workspace, name) == f"tgmae guide {workspace.root} {command}"
    with pytest.raises(UserError) as caught:
        open_videos(workspace, name)
    assert f"`tgmae guide {workspace.root} {command}`" in str(caught.value)


GUIDED: list[dict[str, Any]] = [
    {"guide": "motion-vectors", "mask": {"kind": "motion-vectors"}},
    {"guide": "motion-vectors", "mask": {"kind": "motion-box"}},
    {"guide": "optical-flow", "mask": {"kind": "optical-flow"}},
    {"guide": "none", "mask": {"kind": "tube"}},
]


@pytest.mark.parametrize("changes", GUIDED)
def test_scores_of_one_sidecar_and_texts_of_another(
    small: Small, workspace: Workspace, changes: dict[str, Any]
) -> None:
    write_sidecar(workspace, "motion-vectors", maps=1, without=3)
    write_sidecar(workspace, "optical-flow", maps=4, without=3)
    write_sidecar(workspace, "embeddings-blip2", captions=3, without=8)
    experiment = small(objective={"contrastive": 1.0}, **changes)
    _, left_out = videos_to_pretrain_on(workspace, experiment.guide_name, experiment.text_name)
    without = {} if experiment.guide_name is None else {f"not in guides/{experiment.guide_name}": 1}
    assert left_out == {**without, "not in guides/embeddings-blip2": 1}

    data = dataset(experiment)
    text, drawn = data.videos.sidecar("embeddings-blip2"), set()
    for epoch in range(6):
        sample = data.samples(epoch, 0)[0]
        found = read_guidance(text, 0, read_clip(data.videos.clip_place(0))[0], ("text.npy",))
        number = [digest64(caption) for caption in found.meta.captions].index(sample.caption_id)
        assert sample.text_D is not None
        assert torch.equal(sample.text_D, torch.from_numpy(found.array("text.npy")[number]).float())
        drawn.add(number)
    assert len(drawn) > 1
    batch = batches(experiment)[0]
    assert batch.mask_BN.sum(1).tolist() == [20] * 4 and batch.text_BD is not None


def test_a_text_guide_masks_by_the_caption_that_it_contrasts(small: Small) -> None:
    data = dataset(small(objective={"contrastive": 1.0}, clip={"scales": [1.0], "flip": False}))
    sidecar = data.videos.sidecar("text-blip2")
    for row in range(4):
        meta, _ = read_clip(data.videos.clip_place(row))
        guide = read_guidance(sidecar, row, meta, ("scores.npy", "text.npy"))
        for epoch in range(4):
            sample = data.samples(epoch, row)[0]
            number = [digest64(caption) for caption in guide.meta.captions].index(sample.caption_id)
            assert sample.text_D is not None
            assert torch.equal(sample.text_D, torch.from_numpy(guide.array("text.npy")[number]).float())
            draw = (0, epoch, sample.key)
            frames = random_frames(meta.frames, frames=4, stride=2, rng=generator(*draw, "frames"))
            crop = multi_scale_crop(meta.width, meta.height, size=32, scales=(1.0,), rng=generator(*draw, 0, "crop"))
            mask = top_k(guide.scores(number, frames, crop, data.grid), 10)
            assert np.array_equal(sample.mask_N.numpy(), mask.ravel())


@pytest.mark.parametrize("changes", [{}, {"objective": {"contrastive": 1.0}}])
def test_one_sidecar_is_read_once(small: Small, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    data, places, original = dataset(small(**changes)), [], os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        places.append(offset)
        return original(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    data.samples(0, 0)
    assert len(places) == 2  # the clip and its sidecar


def test_repeats_are_other_clips_of_the_same_window_side_by_side(small: Small) -> None:
    def repeated(count: int) -> list[Batch]:
        clip, size = {"repeats": count, "scales": [0.5, 0.4, 0.3]}, 4 * count
        experiment = small(objective={"contrastive": 1.0}, clip=clip, optim={"batch_size": size})
        return batches(experiment, batch_size=size, epochs=1)

    once, thrice = repeated(1), repeated(3)
    assert len(once) == len(thrice) == 13 // 4
    different = 0
    for single, triple in zip(once, thrice, strict=True):
        assert triple.keys == [key for key in single.keys for _ in range(3)]
        assert torch.equal(triple.clip_BTHWC[::3], single.clip_BTHWC)  # the first of three is the only one of one
        assert torch.equal(triple.mask_BN[::3], single.mask_BN)
        assert torch.equal(triple.caption_id_B.view(4, 3), single.caption_id_B[:, None].expand(4, 3))
        different += int((triple.clip_BTHWC[::3] != triple.clip_BTHWC[1::3]).flatten(1).any(1).sum())
    assert different > 8


def test_repeats_decode_once(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    data, calls = dataset(small(clip={"repeats": 4})), []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return decode(*arguments)

    monkeypatch.setattr("train.data.stream.decode", counted)
    assert len(data.samples(0, 0)) == 4 and len(calls) == 1


def test_the_decoder_predicts_running_cells(small: Small) -> None:
    plain, dual = (batches(small(mask={"ratio": 0.75, "decoder_ratio": ratio})) for ratio in (0, 0.5))
    for a, b in zip(plain, dual, strict=True):
        assert torch.equal(a.visible_index_BV, b.visible_index_BV) and torch.equal(a.clip_BTHWC, b.clip_BTHWC)
        assert b.predicted_index_BM.shape == (4, 16) and b.weight_BM is not None  # half of 2 x 4 x 4 tokens
        assert torch.equal(b.weight_BM.bool(), b.mask_BN.gather(1, b.predicted_index_BM))
        for row in b.predicted_index_BM:
            cells = torch.zeros(32).index_fill(0, row, 1).view(2, 2, 2, 2, 2)
            assert (cells.sum((2, 4)) == 2).all()  # two of each cell of four


def test_the_share_of_scores_falls_by_epoch(small: Small) -> None:
    """At the first epoch the mask of the scores; at the last one that of chance."""
    fixed, annealed = (dataset(small(optim={"epochs": 5}, mask={"text_share": share})) for share in ((1, 1), (1, 0)))
    kept = []
    for epoch in range(5):
        pairs = [(fixed.samples(epoch, row)[0].mask_N, annealed.samples(epoch, row)[0].mask_N) for row in range(13)]
        kept.append(float(torch.stack([(a & b).sum() / a.sum() for a, b in pairs]).mean()))
    assert kept[0] == 1 and kept == sorted(kept, reverse=True) and kept[-1] == pytest.approx(0.62, abs=0.1)


def test_batches_come_one_at_a_time(small: Small) -> None:
    data = dataset(small())
    plan = BatchPlan(data.videos.column("shard"), seed=0, epochs=10**6, batch_size=4)
    assert len(list(islice(stream(data, plan, workers=1, pin=False), 2))) == 2
