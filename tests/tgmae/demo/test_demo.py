"""The demo's report: its masks find what the caption names, and its page trusts no caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.toml import load_experiment
from tgmae.demo.mask_accuracy import compare_masks
from tgmae.demo.mask_pictures import loss_picture, mask_pictures
from tgmae.demo.report import Line, Picture, write_report


def test_every_text_of_the_page_is_escaped(tmp_path: Path) -> None:
    bad = '<script>alert("1")</script>'
    write_report(
        tmp_path / "report.html", title=bad, lines=[Line(bad, bad, bad)], pictures=[Picture(bad, bad)], notes=[bad]
    )
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") == 9  # the title and the caption twice


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_text_masks_find_the_named_object(finished: Path, world: Path) -> None:
    found = compare_masks(load_experiment(finished), world / "truth")
    assert found["mask_iou"] >= 0.6 > 0.2 > found["mask_iou_random"]
    assert found["object_masked"] > 0.9 > 0.75 > found["object_masked_random"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pictures_are_drawn(finished: Path, tmp_path: Path) -> None:
    experiment = load_experiment(finished)
    pictures = [*mask_pictures(experiment, tmp_path / "masks", count=3), *loss_picture(experiment, tmp_path)]
    assert len(pictures) == 4
    for picture in pictures:
        image = np.asarray(Image.open(tmp_path / picture.file))
        assert image.ndim == 3 and image.std() > 10
