"""bench/gates.toml: what must hold, and that a miss is told with what was measured. (.ci/run measures.)"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import gates
from bench.gates import FILE, ROOT, Gate, at, check


def gate(**given: Any) -> Gate:
    chosen = {"says": "ours beside theirs", "run": ("bench/stream.py",), "value": "ratio", "over": None,
              "at_least": None, "at_most": None, **given}  # fmt: skip
    return Gate(**chosen)


def test_every_gate_has_a_bound_and_ci_asks_for_less() -> None:
    all_of_them, ci = gates.gates(FILE, ci=False), {each.says: each for each in gates.gates(FILE, ci=True)}
    assert len({each.says for each in all_of_them}) == len(all_of_them) and ci
    for each in all_of_them:
        other = ci.get(each.says)
        if other is not None and each.at_least is not None:
            assert other.at_least is not None and other.at_least < each.at_least
        elif other is not None and each.at_most is not None:
            assert other.at_most is not None and other.at_most > each.at_most


def test_what_is_run_can_be_typed() -> None:
    """Its options are those of the program, where that is here."""
    for each in gates.gates(FILE, ci=False):
        path = ROOT / each.run[0]
        options = [word for word in each.run if word.startswith("--")]
        assert not path.is_file() or all(f'"{word}"' in path.read_text(encoding="utf-8") for word in options), each


def test_no_bound_or_two_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "gates.toml"
    for bounds in ("", "at_least = 1\nat_most = 2"):
        path.write_text(f'[[gate]]\nsays = "x"\nrun = ["bench/stream.py"]\nvalue = "ratio"\n{bounds}\n')
        with pytest.raises(ValueError, match="the gate 'x' names .*: at_least or at_most"):
            gates.gates(path, ci=False)


def test_places_of_a_json() -> None:
    found = {"rows": [{"a": 2}, {"a": 6}], "tgmae, top-k": 3}
    assert at(found, "rows.1.a") == 6 and at(found, "tgmae, top-k") == 3
    assert gate(value="rows.1.a", over="rows.0.a").measured(found) == 3


@pytest.mark.parametrize(
    ("values", "bound", "tries", "status"),
    [([2.0], {"at_least": 1.5}, 1, 0), ([1.0], {"at_most": 1.5}, 1, 0), ([1.0, 2.0], {"at_least": 1.5}, 2, 0),
     ([1.0, 1.4], {"at_least": 1.5}, 2, 1), ([2.0], {"at_most": 1.5}, 1, 1)],
)  # fmt: skip
def test_a_gate_is_missed_when_every_try_misses_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], values: list[float], bound: dict[str, float],
    tries: int, status: int,
) -> None:  # fmt: skip
    left = iter(values)
    monkeypatch.setattr(gates, "measured", lambda _: {"ratio": next(left)})
    assert check([gate(**bound)], tries) == status
    said = capsys.readouterr().out
    assert said.startswith("MISSED" if status else "holds") and f"{values[0]:.3g}" in said and next(left, None) is None


def test_a_program_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert check([gate(run=("bench/nothing.py",), at_least=1.0)], 1) == 0
    assert capsys.readouterr().out == "not here  bench/nothing.py: 1 gates\n"


def test_the_results_that_are_quoted_meet_the_gates() -> None:
    """Of the full forms, which lie in bench/results."""
    found = {name: json.loads((ROOT / "bench" / "results" / f"{name}.json").read_bytes())
             for name in ("stream", "train_step", "caption", "startup")}  # fmt: skip
    for each in gates.gates(FILE, ci=True):
        name = re.sub(r"^bench/|\.py$", "", each.run[0])
        assert each.holds(each.measured(found[name])), each
