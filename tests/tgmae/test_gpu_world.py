"""The rehearsal of `make gpu-world` on a CPU: what is prepared is trained by `python -m train` alone, and judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu_world

ROOT = Path(__file__).resolve().parents[2]
TINY = ["ray.address=none", "model.size=tiny", "optim.batch_size=16", "clip.frames=4", "clip.size=48", "clip.stride=4",
        "pretrain.workers=0", "finetune.batch_size=16"]  # fmt: skip
NO_PIPELINE = "import sys; sys.modules.update(dict.fromkeys(('ray', 'transformers', 'open_clip', 'av', 'webdataset')))"


def asked(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """`python bench/gpu_world.py WORDS` in this process."""
    monkeypatch.setattr(sys, "argv", ["gpu_world.py", *map(str, words)])
    gpu_world.main()


@pytest.mark.slow
def test_what_is_prepared_is_trained_without_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of the pipeline cannot be imported while it trains, as on a machine that has none of them."""
    folder, results = tmp_path / "work", tmp_path / "found.json"
    common = ["--folder", folder, "--rows", "motion-vectors", *(word for each in TINY for word in ("--set", each))]
    asked(monkeypatch, "prepare", "--videos", 30, "--no-wheels", *common)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_PIPELINE)
    limits = ["--seeds", 1, "--epochs", 2, "--seconds", 3000, "--results", results]
    training = [sys.executable, ROOT / "bench" / "gpu_world.py", "train", *limits, *common]
    alone = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}
    done = subprocess.run(list(map(str, training)), capture_output=True, text=True, env=alone, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(results.read_bytes())
    assert [run["row"] for run in found["runs"]] == ["control", "motion-vectors"]
    assert found["about"]["epochs"] == 2 and found["about"]["card"]
    assert {"motion", "motion_untrained", "seen", "seen_knn", "reconstruction"} <= set(found["runs"][1])


def test_without_what_is_prepared_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="prepare"):
        asked(monkeypatch, "train", "--folder", tmp_path)
