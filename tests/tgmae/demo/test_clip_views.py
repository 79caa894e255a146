"""The views that measurements share: scores and speeds of every guide."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from schemas.config import Experiment
from schemas.workspace import Workspace
from tests.train.conftest import SMALL, write_sidecar, write_workspace
from tgmae.demo.clip_views import guided_views, token_grid


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = write_workspace(tmp_path_factory.mktemp("views") / "work", videos=4, unguided=2)
    write_sidecar(made, "motion-vectors", maps=1)
    write_sidecar(made, "optical-flow", maps=4)
    return made


def experiment(workspace: Workspace, **changes: Any) -> Experiment:
    return Experiment.model_validate({"workspace": str(workspace.root), **json.loads(json.dumps(SMALL)), **changes})


@pytest.mark.parametrize(
    ("guide", "videos", "maps"), [("text", 3, 2), ("motion-vectors", 4, 1), ("optical-flow", 4, 1)]
)
def test_views_have_the_scores_of_their_guide(workspace: Workspace, guide: str, videos: int, maps: int) -> None:
    kind = "tube" if guide == "optical-flow" else "top-k"
    chosen = experiment(workspace, guide=guide, mask={"kind": kind})
    views = list(guided_views(chosen))
    assert len(views) == videos
    for view in views:
        assert view.scores_CTHW.shape == (maps, *token_grid(chosen)) and np.isfinite(view.scores_CTHW).all()
        assert len(view.captions) == (2 if guide == "text" else 0)
        assert (view.flow_TSHW2 is not None) == (guide == "optical-flow")
        if guide == "optical-flow":  # its speed
            assert (view.scores_CTHW >= 0).all() and view.scores_CTHW[0, 0].any()
