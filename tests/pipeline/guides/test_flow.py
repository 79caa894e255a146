"""Optical flow: what is stored, against motion that is known; the trainer's reading of it; engines and weights."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import grid_sample
from torchvision.models.optical_flow import raft_small

from pipeline.guides import Floats, Frames
from pipeline.guides.flow import FlowMagnitudeGuide, OpticalFlowGuide, flows
from pipeline.guides.flow_engines import make_engine
from pipeline.guides.grid import area_mean
from pipeline.guides.guide_identity import guide_identity
from pipeline.guides.recipes import recipe
from pipeline.guides.resize import resize
from pipeline.media.decoding import iter_frames
from schemas.config import Experiment, Flow
from schemas.errors import UserError
from schemas.shards import dequantize, quantize
from tests.pipeline.guides.moving import SIZE, panned, texture

OPENCV = ["dis", "farneback"]


def frames(count: int, dx: int, dy: int) -> Frames:
    return np.stack(panned(count, dx, dy))


def flow_maps(pictures: Frames, **options: Any) -> Floats:
    chosen = Flow(**options)
    found = OpticalFlowGuide(make_engine(chosen), chosen).score([pictures], [])
    assert found.maps is not None and found.text is None and found.maps.dtype == np.float32
    return found.maps


@pytest.mark.parametrize("engine", OPENCV)
@pytest.mark.parametrize(("dx", "dy"), [(5, -3), (-2, 4)])
def test_a_known_translation(engine: str, dx: int, dy: int) -> None:
    maps = flow_maps(frames(5, dx, dy), engine=engine, patch=16)
    assert maps.shape == (4, 5, 6, 8)
    inner = maps[:, :, 1:-1, 1:-1]  # at the edges content comes and goes
    for axis, expected in enumerate((dx, dy)):
        np.testing.assert_allclose(inner[axis, :-1], expected, atol=0.5)
        np.testing.assert_allclose(inner[axis + 2, 1:], -expected, atol=0.5)
    assert not maps[:2, -1].any() and not maps[2:, 0].any()  # the last has no next frame, the first none before


def test_both_opencv_engines_agree_on_an_object() -> None:
    pictures = np.stack([texture(*SIZE)] * 3)
    for t, picture in enumerate(pictures):
        picture[24:72, 20 + 4 * t : 76 + 4 * t] = texture(48, 56, seed=1)
    dis, farneback = (flow_maps(pictures, engine=engine, patch=16) for engine in OPENCV)
    inside = dis[0, 0, 2:4, 2:4], farneback[0, 0, 2:4, 2:4]
    for found in inside:
        np.testing.assert_allclose(found, 4, atol=0.7)
    assert abs(dis[0, 0, :, 7]).max() < 0.5 and abs(farneback[0, 0, :, 7]).max() < 0.5


class Marked:
    """An engine that tells each pixel the levels of both frames: the flow says which pair it was asked for."""

    def __call__(self, from_NHW3: Frames, to_NHW3: Frames) -> Floats:
        return np.stack((from_NHW3[..., 0], to_NHW3[..., 0]), -1).astype(np.float32)


@pytest.mark.parametrize("cuts", [[], [1], [3], [1, 2, 4], [5]])
def test_pairs_go_across_chunks(cuts: list[int]) -> None:
    pictures = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 24, 3), np.uint8)
    ahead, back = flows(Marked(), np.split(pictures, cuts), patch=8)
    assert ahead.shape == back.shape == (7, 2, 2, 3)
    np.testing.assert_allclose(ahead[:, :, 0, 0], [(n, n + 1) for n in range(6)] + [(0, 0)], atol=1e-5)
    np.testing.assert_allclose(back[:, :, 0, 0], [(0, 0)] + [(n, n - 1) for n in range(1, 7)], atol=1e-5)


def test_one_frame_does_not_move() -> None:
    pictures = frames(1, 0, 0)
    assert not flow_maps(pictures).any()
    options = Flow()
    scores = FlowMagnitudeGuide(make_engine(options), options).score([pictures], [])
    assert scores.maps is not None and scores.maps.shape == (1, 1, 12, 16) and not scores.maps.any()
    with pytest.raises(ValueError, match="no frame"):
        flows(Marked(), [], 8)


def test_an_engine_gone_astray_costs_no_precision() -> None:
    class Wild(Marked):
        def __call__(self, from_NHW3: Frames, to_NHW3: Frames) -> Floats:
            return super().__call__(from_NHW3, to_NHW3) * 0 + np.float32([1e9, -1e9])

    ahead, _ = flows(Wild(), [np.zeros((2, 16, 24, 3), np.uint8)], 8)
    np.testing.assert_allclose(ahead[0, :, 0, 0], [24, -16])


def test_cells_are_means_over_their_area() -> None:
    """Cells that are not whole pixels, against pixels cut small enough."""
    field = np.random.default_rng(0).random((3, 10, 7))
    fine = field.repeat(3, 1).repeat(4, 2)
    expected = fine.reshape(3, 3, 10, 4, 7).mean((2, 4))
    np.testing.assert_allclose(area_mean(field, 3, 4), expected, rtol=1e-5)


@pytest.mark.parametrize("engine", OPENCV)
def test_the_stored_flow_is_within_half_a_step(engine: str) -> None:
    maps = flow_maps(frames(4, 5, -3), engine=engine)
    stored, scale, offset = quantize(maps)
    for axis in range(4):
        error = abs(dequantize(stored[axis], scale[axis], offset[axis]) - maps[axis])
        assert error.max() <= scale[axis] / 2 + 1e-5
        assert scale[axis] / 2 < 0.03  # pixels


def test_the_trainer_follows_it() -> None:
    """Through storage, crop and flip: a panned texture moves in the clip as it was panned."""
    from train.data.augment import Crop
    from train.data.clip_flow import clip_flow
    from train.masking.carried_map import FINE

    stride, dx, dy = 2, 3, -2
    every = panned(17, dx, dy)
    stored, scale, offset = quantize(flow_maps(np.stack(every[::stride]), patch=8, frame_stride=stride))
    crop = Crop(left=32, top=16, width=64, height=64, frame_width=SIZE[1], frame_height=SIZE[0], flip=True)
    numbers = np.arange(2, 14, 3)
    flow_TSHW2 = clip_flow(stored, scale, offset, numbers, crop, frame_stride=stride, grid=(2, 4, 4))
    cells = 4 * FINE / 64  # of a pixel; the picture is mirrored, so what goes right goes left
    expected_2 = np.array([-dx, dy]) * 3 * cells
    assert not flow_TSHW2[1, 0].any()  # the middle frame
    for found_HW2, sign in ((flow_TSHW2[0, 0], 1), (flow_TSHW2[0, 1], 1), (flow_TSHW2[1, 1], -1)):
        np.testing.assert_allclose(np.median(found_HW2, (0, 1)), sign * expected_2, atol=0.2)


@pytest.mark.parametrize("folder", ["actions/riding_bikes", "surveillance/fight"])
def test_real_clips(real_clips: Path, folder: str) -> None:
    """A frame fetched along the stored flow from its neighbour is nearer to itself than the neighbour is."""
    every = islice(iter_frames(min((real_clips / folder).iterdir())), 12)
    pictures = np.stack([resize(torch.from_numpy(f.copy()).permute(2, 0, 1)[None].float(), 96, 128)[0] for f in every])
    found = flow_maps(pictures.astype(np.uint8).transpose(0, 2, 3, 1), patch=4)
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    for maps_2FHW, step in ((found[:2], 1), (found[2:], -1)):
        before, after = [], []
        for f in range(1, 11):
            flow_HW2 = torch.from_numpy(maps_2FHW[:, f].repeat(4, 1).repeat(4, 2)).permute(1, 2, 0)
            there = (2 * (torch.stack((columns, rows), -1) + flow_HW2) + 1) / torch.tensor([128, 96]) - 1
            other = torch.from_numpy(pictures[f + step])[None]
            fetched = grid_sample(other, there[None], padding_mode="border", align_corners=False)[0].numpy()
            before.append(abs(pictures[f + step] - pictures[f]).mean())
            after.append(abs(fetched - pictures[f]).mean())
        assert np.mean(after) < 0.9 * np.mean(before)


@pytest.mark.parametrize("remove_camera", [False, True])
def test_magnitude(remove_camera: bool) -> None:
    """A texture panned by (4, -3) with a still square in it."""
    pictures = frames(4, 4, -3)
    pictures[:, 32:72, 48:88] = texture(40, 40, seed=1)
    options = Flow(patch=8, remove_camera=remove_camera)
    (maps_FHW,) = FlowMagnitudeGuide(make_engine(options), options).score([pictures], []).maps
    assert maps_FHW.shape == (4, 12, 16)
    inside, outside = maps_FHW[:, 5:8, 7:10], maps_FHW[:, 2:10, 13:15]
    still, moving = (outside, inside) if remove_camera else (inside, outside)
    assert still.max() < 0.6
    np.testing.assert_allclose(moving, 5, atol=0.8)


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's RAFT as it is before training."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("raft")
    tensors = {name: value.contiguous() for name, value in raft_small(weights=None).state_dict().items()}
    save_file(tensors, folder / "raft.safetensors")
    torch.save(tensors, folder / "raft.pth")
    return folder / "raft.safetensors"


def raft_options(weights: Path, **options: Any) -> Flow:
    return Flow(engine="raft", weights=str(weights), iterations=2, device="cpu", **options)


def test_raft_is_torchvisions(raft: Path) -> None:
    """Where nothing is to be padded, against a call of one's own; from both kinds of file."""
    pictures = np.stack([texture(128, 136), texture(128, 136, seed=1), texture(128, 136, seed=2)])
    model = raft_small(weights=None).eval()
    model.load_state_dict(torch.load(raft.with_suffix(".pth"), weights_only=True))
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.inference_mode():
        expected = model(images[:2], images[1:], num_flow_updates=2)[-1].permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.01
    for path in (raft, raft.with_suffix(".pth")):
        for batch_size in (1, 8):
            found = make_engine(raft_options(path, batch_size=batch_size))(pictures[:2], pictures[1:])
            np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("size", [(40, 50), (130, 140)])
def test_raft_takes_frames_of_any_size(raft: Path, size: tuple[int, int]) -> None:
    maps = flow_maps(np.stack([texture(*size), texture(*size, seed=1)]), **raft_options(raft).model_dump())
    rows, columns = (round(side / 8) for side in size)
    assert maps.shape == (4, 2, rows, columns) and np.isfinite(maps).all() and maps[0, 0].any()


def test_raft_weights_that_are_none(tmp_path: Path, raft: Path) -> None:
    with pytest.raises(UserError, match="unknown flow.weights .* 'C_T_V3'.*C_T_V2"):
        make_engine(raft_options(Path("C_T_V3")))
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"no tensors")
        with pytest.raises(UserError, match="holds no weights of torchvision's raft_small"):
            make_engine(raft_options(tmp_path / name))
    with pytest.raises(UserError, match="torchvision's raft_large: .*Missing key"):
        make_engine(raft_options(raft, model="raft_large"))


def identity(guide: str, **options: Any) -> dict[str, Any]:
    return guide_identity(Experiment(workspace="w", mask={"kind": "tube"}, guide=guide, flow=Flow(**options)))


def test_what_makes_another_flow(raft: Path, tmp_path: Path) -> None:
    plain = identity("optical-flow")
    assert identity("optical-flow", device="cpu", batch_size=3, remove_camera=False, weights="x") == plain
    assert identity("flow-magnitude", remove_camera=False) != identity("flow-magnitude") != plain
    for options in ({"engine": "farneback"}, {"patch": 4}, {"frame_stride": 2}, {"engine": "raft"}):
        assert identity("optical-flow", **options) != plain
    named = identity("optical-flow", **raft_options(raft).model_dump())
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(raft.read_bytes())
    assert identity("optical-flow", **raft_options(moved).model_dump()) == named
    moved.write_bytes(raft.read_bytes() + b" ")
    assert identity("optical-flow", **raft_options(moved).model_dump()) != named


def test_what_takes_part_is_recorded() -> None:
    def tools(engine: str) -> list[str]:
        chosen = Flow.model_validate({"engine": engine})
        return recipe(Experiment(workspace="w", guide="flow-magnitude", flow=chosen)).tools

    assert tools("dis") == tools("farneback") == ["opencv-python-headless", "av", "webdataset"]
    assert tools("raft") == ["torch", "torchvision", "av", "webdataset"]
