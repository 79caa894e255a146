"""Stage records: what a fingerprint depends on, and how a difference is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UserError
from schemas.stage import StageRecord, StageSpec, read_record, required_record, write_record


def spec(folder: Path, config: dict[str, Any] | None = None, inputs: dict[str, str] | None = None) -> StageSpec:
    return StageSpec("guide", folder, config or {"patch": 16, "scales": (1.0, 0.5)}, inputs or {"clips": "c"})


def record(made: StageSpec, **changes: Any) -> StageRecord:
    values: dict[str, Any] = {
        "stage": made.stage, "fingerprint": made.fingerprint, "config": made.config, "inputs": made.inputs,
        "output": "digest", "counts": {"done": 1}, "failed": {}, "tools": {}, "seconds": 1.0,
    }  # fmt: skip
    return StageRecord(**{**values, **changes})


def test_a_record_reads_back_and_fits_its_spec(tmp_path: Path) -> None:
    made = spec(tmp_path)
    write_record(tmp_path, record(made))
    kept = read_record(tmp_path)
    assert kept is not None and made.differences(kept) == []


def test_tools_and_times_do_not_make_a_stage_stale(tmp_path: Path) -> None:
    made = spec(tmp_path)
    assert made.differences(record(made, tools={"torch": "9"}, seconds=9.0, info={"data": "/elsewhere"})) == []


def test_a_difference_is_said_by_name(tmp_path: Path) -> None:
    before = record(spec(tmp_path))
    assert spec(tmp_path, config={"patch": 8, "scales": (1.0, 0.5)}).differences(before) == ["patch: 16 -> 8"]
    sections = [{"optim": {"betas": (0.9, 0.95), "epochs": epochs}} for epochs in (1, 2)]
    assert spec(tmp_path, sections[1]).differences(record(spec(tmp_path, sections[0]))) == ["optim.epochs: 1 -> 2"]
    assert spec(tmp_path, inputs={"clips": "d"}).differences(before) == ["clips changed"]
    assert "schema version" in spec(tmp_path).differences(record(spec(tmp_path), fingerprint="x", schema_version=0))[0]


def test_the_order_of_keys_is_no_difference(tmp_path: Path) -> None:
    assert spec(tmp_path, config={"a": 1, "b": 2}).fingerprint == spec(tmp_path, config={"b": 2, "a": 1}).fingerprint


def test_a_missing_or_foreign_record_is_said_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is missing: run `tgmae shard W` first"):
        required_record(tmp_path / "nowhere", "tgmae shard W")
    with pytest.raises(UserError, match="is incomplete"):
        required_record(tmp_path, "tgmae shard W")
    (tmp_path / "stage.json").write_text('{"stage": "guide"}')
    with pytest.raises(UserError, match="is not a stage record"):
        read_record(tmp_path)
