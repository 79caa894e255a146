"""Checkpoints: whole or not there, the last few kept, equal after loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from schemas.errors import UserError
from train.engine import checkpoint, checkpoint_files
from train.engine.checkpoint_files import Position
from train.engine.optim import parameter_groups
from train.models.weights import load_weights

SPEC: dict[str, Any] = {"fingerprint": "abc"}


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.AdamW(parameter_groups(model, weight_decay=0.1), lr=0.1)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    optimizer.zero_grad()
    model(torch.randn(6, 4, generator=generator)).square().mean().backward()
    optimizer.step()


def write(run: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, loss: float = 1.0) -> Path:
    position = Position(step, 0, step, 1.5, 1, 0, loss)
    return checkpoint.save(run, position, checkpoint.collect(model, optimizer), spec=SPEC, keep=2)


def test_a_loaded_run_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, optimizer = network()
    for step in range(3):
        learn(model, optimizer, step)
    path = write(tmp_path, 3, model, optimizer)
    assert sorted(file.name for file in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    other, again = network()
    found = checkpoint_files.newest(tmp_path)
    assert found is not None and found[0] == path and found[1]["spec"] == SPEC
    assert checkpoint.load(*found, other, again) == Position(3, 0, 3, 1.5, 1, 0, 1.0)
    for step in range(3, 6):
        learn(model, optimizer, step)
        learn(other, again, step)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_last_few_are_kept_in_order_of_steps(tmp_path: Path) -> None:
    model, optimizer = network()
    for step in (1, 2, 9999999, 10000000):
        write(tmp_path, step, model, optimizer)
    assert [path.name for path in checkpoint_files.steps(tmp_path)] == ["step_9999999", "step_10000000"]


def test_the_best_is_kept_beside_the_last(tmp_path: Path) -> None:
    model, optimizer = network()
    for step, loss in enumerate((3.0, 1.0, 2.0, 1.0, 2.5, 2.4, 2.6, 2.7)):
        write(tmp_path, step, model, optimizer, loss)
    assert [path.name[-1] for path in checkpoint_files.steps(tmp_path)] == ["3", "6", "7"]
    best = checkpoint_files.best(tmp_path)
    assert best is not None and best.name == "step_0000003"  # of equal losses, the later
    assert checkpoint_files.best(tmp_path / "nothing") is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
def test_damage_is_noticed(tmp_path: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, optimizer = network()
    learn(model, optimizer, 0)
    before, last = (write(tmp_path, step, model, optimizer) for step in (1, 2))
    path = last / name
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if how == "cut" else data[:-1] + b"!")
    found = checkpoint_files.newest(tmp_path)
    assert found is not None and found[0] == before
    assert f"{last} is damaged" in capsys.readouterr().err
    write(tmp_path, 2, model, optimizer)  # takes the damaged one's place
    found = checkpoint_files.newest(tmp_path)
    assert found is not None and found[0] == last


@pytest.mark.parametrize(
    "state", [b"", b"{}", b"[]", b'{"files": {}}', b'{"files": {}, "position": {"step": 2}, "format": 2, "spec": {}}']
)
def test_a_damaged_state_falls_back_to_the_checkpoint_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: bytes
) -> None:
    folders = [write(tmp_path, step, *network()) for step in (1, 2)]
    (folders[1] / "state.json").write_bytes(state)
    found = checkpoint_files.newest(tmp_path)
    assert found is not None and found[0] == folders[0]
    assert "is damaged" in capsys.readouterr().err


def test_what_was_half_written_is_not_seen_and_swept_up(tmp_path: Path) -> None:
    partial = tmp_path / checkpoint_files.FOLDER / ".step_0000005.123.tmp"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    assert checkpoint_files.newest(tmp_path) is None
    checkpoint_files.clean(tmp_path)
    assert not partial.exists()


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 1, *network())
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(UserError, match="format 99, this version reads 2"):
        checkpoint_files.newest(tmp_path)


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    for name in ("bad", "none"):
        with pytest.raises(UserError, match=f"cannot read the weights .*{name}.safetensors"):
            load_weights(tmp_path / f"{name}.safetensors")
