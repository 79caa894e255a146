"""The rehearsal of `make gpu-world` on a CPU: what is prepared is trained by `python -m train` alone, and judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ["ray.address=none", "model.size=tiny", "optim.batch_size=16", "clip.frames=4", "clip.size=48", "clip.stride=4",
        "pretrain.workers=0", "finetune.batch_size=16"]  # fmt: skip
NO_PIPELINE = "import sys; sys.modules.update(dict.fromkeys(('ray', 'transformers', 'open_clip', 'av', 'webdataset')))"


@pytest.mark.slow
def test_what_is_prepared_is_trained_without_the_pipeline(tmp_path: Path) -> None:
    """Packages of the pipeline cannot be imported while it trains, as on a machine that has none of them."""
    program, folder, results = ROOT / "bench" / "gpu_world.py", tmp_path / "work", tmp_path / "found.json"
    common = ["--folder", str(folder), "--rows", "motion-vectors", *(word for each in TINY for word in ("--set", each))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    making = [sys.executable, str(program), "prepare", "--videos", "30", "--no-wheels", *common]
    subprocess.run(making, check=True, capture_output=True, env=environment, cwd=ROOT)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_PIPELINE)
    training = [
        sys.executable,
        str(program),
        "train",
        "--seeds",
        "1",
        "--epochs",
        "2",
        "--seconds",
        "3000",
        "--results",
        str(results),
        *common,
    ]
    alone = {**environment, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}
    done = subprocess.run(training, capture_output=True, text=True, env=alone, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(results.read_bytes())
    assert [run["row"] for run in found["runs"]] == ["control", "motion-vectors"]
    assert found["about"]["epochs"] == 2 and found["about"]["card"]
    assert {"motion", "motion_untrained", "seen", "seen_knn", "reconstruction"} <= set(found["runs"][1])


@pytest.mark.medium
def test_without_what_is_prepared_it_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "gpu_world.py"), "train", "--folder", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 1 and "prepare" in done.stderr
