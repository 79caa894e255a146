"""The masks that the page shows are the trainer's, token for token, and so are frames and crops."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.errors import UserError
from schemas.workspace import Workspace
from tests.tgmae.inspector.conftest import experiment
from tests.train.conftest import write_sidecar, write_workspace
from tgmae.inspector.drawn_clips import Clips, Wanted, as_the_run, experiment_of, wanted_of
from tgmae.inspector.frame_pictures import model_clip
from train.data.stream import ClipDataset
from train.data.videos import open_videos
from train.models.objective import model_config

GUIDE = {"top-k": "text", "bottom-k": "text", "tube": "text", "random": "text", "motion-vectors": "motion-vectors",
         "motion-box": "motion-vectors", "optical-flow": "optical-flow"}  # fmt: skip


@pytest.mark.parametrize("kind", GUIDE)
@pytest.mark.parametrize(("ratio", "share"), [(0.6, 1.0), (0.75, 0.5)])
def test_a_mask_is_that_of_the_trainers_stream(looked_at: Workspace, kind: str, ratio: float, share: float) -> None:
    share = share if kind == "top-k" else 1.0
    chosen = experiment(looked_at, guide=GUIDE[kind], mask={"kind": kind, "ratio": ratio, "text_share": [share, share]},
                        clip={"repeats": 2}, pretrain={"seed": 3})  # fmt: skip
    name, clips = chosen.guide_name, Clips(looked_at)
    stream = ClipDataset(open_videos(looked_at, name), chosen, model_config(chosen).grid)
    for row in (0, 3, 9):
        if not stream.videos.sidecar(name).entries(row):
            continue
        for epoch in (0, 2):
            for repeat, sample in enumerate(stream.samples(epoch, row)):
                wanted = Wanted(kind, ratio, share, seed=3, epoch=epoch, repeat=repeat)
                drawn = clips.draw(chosen, row, name, wanted)
                assert np.array_equal(drawn.hidden_THW.reshape(-1), sample.mask_N.numpy())
                assert torch.equal(model_clip(clips, chosen, row, drawn), sample.clip_THWC)


def test_a_run_is_drawn_with_what_it_was_trained_with(looked_at: Workspace) -> None:
    chosen = experiment(looked_at, mask={"text_share": [0.0, 1.0]}, pretrain={"seed": 5})
    assert as_the_run(chosen) == Wanted("top-k", 0.6, 1.0, seed=5, epoch=2)
    assert as_the_run(chosen, 1).share == 0.5
    assert wanted_of({}, chosen) == as_the_run(chosen)
    assert wanted_of({"ratio": "0.8", "entry": "1", "crop": "centre"}, chosen).entry == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [({"ratio": "2"}, "ratio 2 is not between"), ({"ratio": "x"}, "not a number"), ({"ratio": "nan"}, "not between"),
     ({"kind": "no"}, "the masks are"), ({"crop": "../etc"}, "the crops")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(looked_at: Workspace, given: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        wanted_of(given, experiment(looked_at))


def test_a_guide_that_cannot_give_a_mask_says_so(looked_at: Workspace) -> None:
    clips, chosen = Clips(looked_at), experiment(looked_at)
    with pytest.raises(UserError, match="needs the guide optical-flow"):
        clips.draw(chosen, 0, "text-blip2", Wanted("optical-flow", 0.6, 1.0))
    with pytest.raises(UserError, match="ranks score maps"):
        clips.draw(chosen, 0, "optical-flow", Wanted("top-k", 0.6, 1.0))
    with pytest.raises(UserError, match="nothing for this video"):
        clips.draw(chosen, 5, "text-blip2", Wanted("top-k", 0.6, 1.0))
    with pytest.raises(UserError, match="there is no map 9"):
        clips.draw(chosen, 0, "text-blip2", Wanted("top-k", 0.6, 1.0, entry=9))
    assert clips.draw(chosen, 0, None, Wanted("tube", 0.6, 1.0)).scores_THW is None


def test_without_a_run_the_defaults_take_a_guide_that_is_there(tmp_path: Path) -> None:
    workspace = write_workspace(tmp_path / "w", videos=2, unguided=9)
    assert experiment_of(workspace, None).guide_name == "text-blip2"
    shutil.rmtree(workspace.guide("text-blip2"))
    write_sidecar(workspace, "motion-vectors", maps=1)
    found = experiment_of(workspace, None)
    assert (found.guide_name, found.mask.kind) == ("motion-vectors", "motion-vectors")
