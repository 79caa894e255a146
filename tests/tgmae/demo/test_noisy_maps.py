"""Maps made worse on purpose: by how much, and the same each time."""

from __future__ import annotations

import numpy as np

from pipeline.guides.encoder import TextEncoder
from pipeline.guides.text import TextGuide
from pipeline.world import MODELS
from pipeline.world.scene import render, sample_scene
from schemas.config import Experiment
from tgmae.demo.noisy_maps import Noise1, Noise4


def test_noise_is_as_wide_as_its_name_says_and_drawn_by_the_video() -> None:
    text = {"model": f"local-dir:{MODELS / 'clip'}", "patch": 8, "device": "cpu"}
    experiment = Experiment.model_validate({"workspace": "work", "text": text})
    frames = render(sample_scene(1, 0, size=64, frames=4))[0]
    captions = ["a red star", "a blue heart"]
    plain = TextGuide(TextEncoder(experiment.text)).score([frames], captions)
    noisy, again = (Noise4(experiment).score([frames], captions) for _ in range(2))
    assert np.array_equal(noisy.maps, again.maps) and np.array_equal(noisy.text, plain.text)
    assert not np.array_equal(noisy.maps, Noise4(experiment).score([frames[::-1].copy()], captions).maps[:, ::-1])
    for guide, width in ((Noise1, 1), (Noise4, 4)):
        added = guide(experiment).score([frames], captions).maps - plain.maps
        ratio = added.std(axis=(1, 2, 3)) / plain.maps.std(axis=(1, 2, 3))
        assert np.allclose(ratio, width, rtol=0.15)
    assert Noise1.identity(experiment) != Noise4.identity(experiment)
