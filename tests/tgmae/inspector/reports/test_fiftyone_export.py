"""The export for FiftyOne: its JSON layout, and, where FiftyOne is installed, what its own importer makes of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from schemas.errors import UserError
from schemas.workspace import Workspace
from tests.tgmae.inspector.conftest import HOSTILE
from tgmae.cli import app
from tgmae.inspector.reports.fiftyone_export import HIDDEN, export_fiftyone


@pytest.fixture(scope="module")
def exported(looked_at: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fiftyone") / "out"
    assert export_fiftyone(looked_at, out) == 14
    return out


def test_every_video_is_a_sample_with_its_words(exported: Path) -> None:
    about = json.loads((exported / "metadata.json").read_bytes())
    assert about["media_type"] == "video" and "version" not in about  # so FiftyOne takes it for this layout
    samples = json.loads((exported / "samples.json").read_bytes())["samples"]
    assert len(samples) == 14 and all((exported / each["filepath"]).read_bytes()[4:8] == b"ftyp" for each in samples)
    assert {each["tags"][0] for each in samples} == {"train", "test"}
    assert {each["label"]["label"] for each in samples} == {"slow", "fast"}
    texts = [text["label"] for each in samples for text in each.get("captions_blip2", {}).get("classifications", [])]
    assert len(texts) == 26 and any("<script>" in text for text in texts)
    assert HOSTILE not in texts and not any("\u202e" in text for text in texts)


def test_every_frame_has_its_map_and_its_mask(exported: Path) -> None:
    samples = json.loads((exported / "samples.json").read_bytes())["samples"]
    with_maps = 0
    for sample in samples:
        frames = json.loads((exported / sample["frames"]).read_bytes())["frames"]
        with_maps += bool(frames)
        for number, labels in frames.items():
            assert labels["frame_number"] == int(number) >= 1
            with Image.open(labels["mask"]["mask_path"]) as mask, Image.open(labels["scores"]["map_path"]) as scores:
                hidden, values = np.asarray(mask) == HIDDEN, np.asarray(scores)
            assert hidden.shape == values.shape == (8, 12) and hidden.sum() == 58  # 0.6 of 96
            assert values[hidden].min() >= values[~hidden].max()
    assert with_maps == 13


@pytest.mark.skipif(importlib.util.find_spec("fiftyone") is None, reason="FiftyOne is not installed")
def test_fiftyones_own_importer_reads_it(exported: Path) -> None:
    importers = importlib.import_module("fiftyone.utils.data.importers")
    importer = importers.FiftyOneDatasetImporter(str(exported))
    assert importer._is_legacy_format_data()
    importer = importer._to_legacy_importer()
    importer.setup()
    samples = list(importer)
    assert len(samples) == 14
    first = next(sample for sample in samples if len(sample.frames))
    assert first.frames[1].scores.get_map().shape == first.frames[1].mask.get_mask().shape == (8, 12)


def test_nothing_is_overwritten_and_one_target_is_named(looked_at: Workspace, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("")
    with pytest.raises(UserError, match="not an empty folder"):
        export_fiftyone(looked_at, tmp_path)
    neither = CliRunner().invoke(app, ["export", str(looked_at.root)])
    assert neither.exit_code == 2 and "--to-fiftyone" in neither.output
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(looked_at.root), "--to-fiftyone", str(out), "--videos", "2",
                                    "--guide", "motion-vectors"])  # fmt: skip
    assert done.exit_code == 0 and f"2 videos: {out}" in done.output
