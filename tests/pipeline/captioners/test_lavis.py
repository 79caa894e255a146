"""The captioner `lavis`: in the environment that Ray makes for it, with a model of LAVIS' own classes.

TGMAE_LAVIS=make has Ray make it (two minutes, 7 GB for the time being); TGMAE_LAVIS=PYTHON names the interpreter of one
that was made by hand.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.caption import run_caption
from pipeline.captioners.lavis_environment import PINNED_FOR, lavis_environment, pins
from pipeline.index import run_index
from pipeline.runtime.engine import connected, execute
from pipeline.runtime.model_identity import captioner_identity
from pipeline.runtime.parts import Parts
from pipeline.runtime.units import ShardResult, Unit
from schemas.config import Caption, Experiment, Lavis, Ray
from schemas.errors import UserError
from schemas.tables import CAPTIONS, read_table
from tests.pipeline.conftest import write_video

MODELS = Path(__file__).with_name("lavis_models.py")
ASKED = os.environ.get("TGMAE_LAVIS", "")
PYTHON = "" if ASKED == "make" else ASKED


def speckled(seed: int, width: int, height: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(height // 4, 0).repeat(width // 4, 1)


def by_hand(models: str, wanted: list[tuple[str, int]]) -> list[str]:
    """The captions of these frames (path, index), one at a time, in LAVIS' own words. Runs in its environment."""
    import runpy

    import av
    from lavis.models import load_model_and_preprocess
    from PIL import Image

    runpy.run_path(models)
    model, processors, _ = load_model_and_preprocess("small_caption", "random", is_eval=True, device="cpu")
    texts = []
    for path, index in wanted:
        with av.open(path) as container:
            frame = list(container.decode(video=0))[index].to_ndarray(format="rgb24")
        texts += model.generate({"image": processors["eval"](Image.fromarray(frame)).unsqueeze(0)}, num_beams=2)
    return texts


@pytest.mark.slow
@pytest.mark.timeout(1800)  # Ray makes the environment: a minute, with the packages in pip's cache
@pytest.mark.skipif(not ASKED, reason="TGMAE_LAVIS is not set: make, or the interpreter of LAVIS' environment")
@pytest.mark.skipif(ASKED == "make" and sys.version_info[:2] != PINNED_FOR, reason="LAVIS is pinned for another Python")
def test_captions_are_what_lavis_says(tmp_path: Path) -> None:
    import ray
    from ray import cloudpickle

    for n in range(5):
        write_video(tmp_path / "data" / f"{n}.mp4", frames=6, draw=lambda t, w, h, n=n: speckled(6 * n + t, w, h))
    options = {"name": "small_caption", "model_type": "random", "models": str(MODELS), "num_beams": 2, "batch_size": 4,
               "device": "cpu", "python": PYTHON}  # fmt: skip

    def experiment(**changes: Any) -> Experiment:
        return Experiment.model_validate({
            "workspace": str(tmp_path / "w"), "captions": "lavis", "index": {"data": str(tmp_path / "data")},
            "caption": {"lavis": {**options, **changes}, "videos_per_shard": 3}, "ray": {"workers": 1},
        })  # fmt: skip

    run_index(experiment())
    with connected(Ray()):  # one session, so that the environment is made once
        record = run_caption(experiment())
        assert (record.counts["done"], record.counts["failed"], record.counts["shards"]) == (5, 0, 2)
        found = read_table(tmp_path / "w" / "captions" / "lavis" / "captions.parquet", CAPTIONS).to_pylist()
        wanted = [(str(tmp_path / "data" / row["video_id"]), row["frame"]) for row in found]
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        task = ray.remote(by_hand).options(runtime_env=lavis_environment(Lavis(**options)))
        said = ray.get(task.remote(str(MODELS), wanted))
        assert [row["text"] for row in found] == [" ".join(text.split()) for text in said]
        assert len(wanted) == 15 and len(set(said)) > 5
        with pytest.raises(
            UserError, match=r"unknown caption.lavis.name 'small_captions'. Did you mean 'small_caption'"
        ):
            run_caption(experiment(name="small_captions"))
        with pytest.raises(UserError, match=r"unknown caption.lavis.model_type of small_caption 'base'. .*random"):
            run_caption(experiment(model_type="base"))


def test_an_interpreter_that_does_not_serve_is_refused(tmp_path: Path) -> None:
    def said(python: Path | str) -> str:
        with pytest.raises(UserError) as caught:
            lavis_environment(Lavis(python=str(python)))
        return str(caught.value)

    assert "cannot be run" in said(tmp_path / "none")
    assert "has salesforce-lavis not at all, not 1.0.2: docs/captions.md" in said(sys.executable)
    other = tmp_path / "python"
    versions = {"python": "3.8", "ray": "1.0", "salesforce-lavis": "1.0.2", "tgmae": "0.0"}
    other.write_text(f"#!/bin/sh\necho '{json.dumps(versions)}'\n")
    other.chmod(0o755)
    assert "has python 3.8, not 3." in said(other) and "ray 1.0, not" in said(other)
    other.write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    assert "broken" in said(other)
    elsewhere = lavis_environment(Lavis(python="/on/another/machine/python"), cluster=True)
    assert elsewhere["py_executable"] == "/on/another/machine/python"


def test_the_environment_keeps_our_torch_and_ray() -> None:
    names = dict(pin.split("==") for pin in pins())
    assert names["salesforce-lavis"] == "1.0.2" and names["numpy"].startswith("1.26")
    assert not names.keys() & {"torch", "torchvision", "ray"}


@pytest.mark.medium
def test_an_environment_that_cannot_be_made_stops_the_stage() -> None:
    class Idle:
        def run(self, unit: Unit) -> Iterator[int | ShardResult]:
            yield ShardResult(unit.shard, [], [])

    with pytest.raises(UserError, match="Ray cannot make the workers' environment: "):
        list(execute(Parts([Unit(0, [])], 1), Idle, Ray(), runtime_env={"conda": "no-such-environment"}))


def test_identity_is_what_changes_a_caption(tmp_path: Path) -> None:
    def identity(**options: Any) -> dict[str, Any]:
        return captioner_identity("lavis", Caption(lavis=Lavis(**options)))

    assert identity() == identity(device="cuda", python="/lavis/bin/python")
    assert identity() != identity(num_beams=3) != identity(model_type="pretrain_opt2.7b")
    models = tmp_path / "models.py"
    models.write_text("# one")
    first = identity(models=str(models))
    models.write_text("# two")
    assert first != identity(models=str(models))
    assert str(tmp_path) not in json.dumps(first)
