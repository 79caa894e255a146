"""A workspace to look at: 14 small videos with maps, motion, flow, captions of a stranger, failures, a trained run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from schemas.config import Experiment
from schemas.stage import StageRecord, write_record
from schemas.tables import CAPTIONS, CLIP_INDEX, FAILURES, MANIFEST, read_table, video_key, write_table
from schemas.workspace import Workspace
from tests.train.conftest import SMALL, write_sidecar, write_workspace
from tgmae.inspector.drawn_clips import Clips
from tgmae.inspector.index_keeper import Keeper
from tgmae.inspector.site import application
from tgmae.inspector.site_answers import Site
from tgmae.inspector.site_guard import Guard

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> \u202e 熊猫 танцует"
TOKEN = "a-token"
MAPS = 13 + 14 + 14  # videos with maps, of three guides
LOST = "gone/<b>missing</b>.mp4"  # was never indexed


def described(root: Path) -> Workspace:
    """Manifest, captions, failures and truth next to the trainer's tiny workspace."""
    workspace = write_workspace(root / "work", splits=True)
    write_sidecar(workspace, "motion-vectors", maps=1)
    write_sidecar(workspace, "optical-flow", maps=4)
    clips = read_table(workspace.clips / "index.parquet", CLIP_INDEX).to_pylist()
    rows = [
        {"key": clip["key"], "video_id": clip["video_id"], "path": clip["video_id"], "label": clip["label"],
         "label_text": clip["label_text"], "split": clip["split"], "frames": clip["frames"], "fps": 12.0, "width": 96,
         "height": 64, "rotation": 0, "codec": "h264", "duration": clip["frames"] / 12, "bytes": 9000}
        for clip in clips
    ]  # fmt: skip
    write_table(workspace.manifest / "manifest.parquet", rows, MANIFEST)
    said = [
        {"key": row["key"], "video_id": row["video_id"], "caption": number, "text": text, "frame": 5, "time": 0.4}
        for place, row in enumerate(sorted(rows, key=lambda row: row["video_id"]))
        for number, text in enumerate((f"a {row['label_text']} bar", HOSTILE if place == 0 else f"bar {'x ' * place}"))
        if place != 7  # has no caption
    ]
    write_table(workspace.captions("blip2") / "captions.parquet", said, CAPTIONS)
    failed = [
        {"key": video_key(LOST), "video_id": LOST, "stage": "index", "error": "MissingFile", "message": "no file"}
    ]
    tall = [{"key": rows[2]["key"], "video_id": rows[2]["video_id"], "stage": "guide", "error": "TooTall",
             "message": "97 <i>rows</i>"}]  # fmt: skip
    for folder, failures in ((workspace.manifest, failed), (workspace.guide("motion-vectors"), tall)):
        write_table(folder / "failures.parquet", failures, FAILURES)
    _record(workspace.manifest, "index", info={"data": str(root / "data")})
    _record(workspace.captions("blip2"), "caption")
    truth = root / "data" / "truth"
    for row in rows:
        file = (truth / row["video_id"]).with_suffix(".npz")
        file.parent.mkdir(parents=True, exist_ok=True)
        visible = np.zeros((row["frames"], 64, 96), bool)
        visible[:, 16:48, 40:72] = True
        with file.open("wb") as opened:
            np.savez(opened, bits=np.packbits(visible), shape=np.array(visible.shape, np.int64))
    (truth / "world.json").write_text("{}")
    return workspace


def _record(folder: Path, stage: str, **fields: Any) -> None:
    empty: dict[str, Any] = {"config": {}, "inputs": {}, "counts": {}, "failed": {}, "tools": {}, "seconds": 0}
    write_record(folder, StageRecord(stage=stage, fingerprint=stage, output=folder.name, **empty, **fields))


def experiment(workspace: Workspace, **changes: Any) -> Experiment:
    values: dict[str, Any] = json.loads(json.dumps(SMALL))
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    return Experiment.model_validate({"workspace": str(workspace.root), **values})


@pytest.fixture(scope="session")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return described(tmp_path_factory.mktemp("looked_at"))


@pytest.fixture(scope="session")
def trained(looked_at: Workspace) -> Workspace:
    """With a run, its probe and its retrieval."""
    from train.pretrain import run_pretrain
    from train.probe import run_probe
    from train.retrieve import run_retrieve

    chosen = experiment(looked_at, probe={"test_split": "test"}, retrieve={"test_split": "test"})
    for run in (run_pretrain, run_probe, run_retrieve):
        run(chosen)
    return looked_at


@pytest.fixture(scope="session")
def site(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """The site with its guard, everything indexed and measured."""
    clips = Clips(trained)
    keeper = Keeper(trained, clips, path=tmp_path_factory.mktemp("index") / "index.sqlite")
    keeper.start()
    assert keeper.ready.wait(60), keeper.trouble
    deadline = time.monotonic() + 60
    while keeper.measured() != (MAPS, MAPS) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert keeper.measured() == (MAPS, MAPS), "not all maps are measured"
    yield Guard(application(Site(trained, clips, keeper)), token=TOKEN, hosts=("127.0.0.1", "localhost"), port=80)
    keeper.stop()


@pytest.fixture
def client(site: Guard) -> TestClient:
    """A browser that opened the printed URL."""
    found = TestClient(site, base_url="http://127.0.0.1", follow_redirects=False)
    found.get("/", params={"token": TOKEN})
    return found
