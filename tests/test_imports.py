"""The rules between the rooms: who may import what, and what may never be loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("schemas", "pipeline", "train", "tgmae")

FORBIDDEN = {  # room -> packages that no module of it imports, not even inside a function
    "schemas": {"av", "decord", "open_clip", "pipeline", "ray", "tgmae", "torch", "train", "transformers"},
    "pipeline": {"tgmae", "train"},
    "train": {"lavis", "open_clip", "pipeline", "ray", "tgmae", "transformers"},
}
BELOW = {  # room inside a room -> the rooms next to it that it may import; what is not listed may import all of its own
    "schemas": {"schemas.config"},
    "schemas.config": {"schemas"},
    "pipeline.media": set(),
    "pipeline.runtime": set(),
    "pipeline.world": set(),
    "pipeline.datasets": {"pipeline.media", "pipeline.runtime"},
    "pipeline.captioners": {"pipeline.runtime"},
    "pipeline.guides": {"pipeline.media", "pipeline.runtime"},
    "train.models": set(),
    "train.masking": set(),
    "train.data": {"train.models", "train.masking"},
    "train.engine": {"train.models", "train.masking", "train.data"},
    "train.evaluation": {"train.models", "train.masking", "train.data", "train.engine"},
}
ENTRIES = {"train": 16, "pipeline": 16, "tgmae": 16}  # files and rooms in one folder, at most
ENTRIES_ELSEWHERE = 18
LINES = 300  # of a file
PICKLES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}


def sources(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> dict[str, int]:
    """Top-level package -> a line that imports it, wherever in the file."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; name the room"
            names = [node.module or ""]
        else:
            continue
        for name in names:
            found[name.partition(".")[0]] = node.lineno
    return found


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `statement`."""
    program = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def modules(room: str) -> list[str]:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources(room)]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_one_way(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(room)
        for name, line in imported(path).items()
        if name in FORBIDDEN[room]
    ]
    assert not wrong


def room_of(module: str) -> str:
    """The folder that holds a module."""
    path = ROOT.joinpath(*module.split("."))
    return module if path.is_dir() else module.rpartition(".")[0]


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the same package that a file imports from."""
    package = path.relative_to(ROOT).parts[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if (ROOT.joinpath(*name.split(".")).with_suffix(".py")).is_file()}
            found |= {room_of(name) for name in (modules or {node.module})}
    return found


@pytest.mark.parametrize("room", BELOW)
def test_rooms_inside_a_room_import_downwards(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports from {other}"
        for path in sorted(ROOT.joinpath(*room.split(".")).glob("*.py"))
        for other in imported_rooms(path) - {room} - BELOW[room]
    ]
    assert not wrong


def test_every_file_and_folder_can_be_read_in_one_sitting() -> None:
    long = [f"{path.relative_to(ROOT)}: {count} lines" for path in sources(*ROOMS)
            if (count := len(path.read_text(encoding="utf-8").splitlines())) > LINES]  # fmt: skip
    folders = {path.parent for path in sources(*ROOMS)}
    crowded = []
    for folder in folders:
        own = [path for path in folder.iterdir() if (path.suffix == ".py" and path.name != "__init__.py")
               or (path.is_dir() and (path / "__init__.py").is_file())]  # fmt: skip
        if len(own) > ENTRIES.get(folder.name, ENTRIES_ELSEWHERE):
            crowded.append(f"{folder.relative_to(ROOT)}: {len(own)} entries")
    assert not long + crowded


def test_no_function_carries_more_than_eight_things() -> None:
    wrong = []
    for path in sources(*ROOMS):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [each.arg for each in given if each.arg not in ("self", "cls")]
                if len(names) > 8:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} takes {len(names)}")
    assert not wrong


def test_one_name_is_one_thing() -> None:
    """Two rooms never have a file of the same name; a room's own __init__ and __main__ aside."""
    places: dict[str, list[str]] = {}
    for path in sources(*ROOMS):
        if not path.name.startswith("__"):
            places.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_few_files_know_ray() -> None:
    knows = [str(path.relative_to(ROOT)) for path in sources(*ROOMS) if "ray" in imported(path)]
    assert knows == ["pipeline/runtime/engine.py", "pipeline/runtime/ray_session.py", "tgmae/cluster.py"]


@pytest.mark.medium
def test_one_file_knows_lavis() -> None:
    """It is the one that runs in LAVIS' environment."""
    knows = [str(path.relative_to(ROOT)) for path in sources(*ROOMS) if "lavis" in imported(path)]
    assert knows == ["pipeline/captioners/lavis.py"]


@pytest.mark.medium
def test_the_trainer_loads_no_captioner_and_no_cluster() -> None:
    """Also through others: all of train, and what it brings in."""
    everything = loaded_by("\n".join(f"import {name}" for name in modules("train")))
    assert "torch" in everything
    assert not everything & {"ray", "transformers", "open_clip", "pipeline", "tgmae", "lavis"}


def test_schemas_are_light() -> None:
    """Also when a table is read."""
    table = "tests/surface/workspace_0.1.0/manifest/manifest.parquet"
    reading = f"schemas.tables.read_table(schemas.tables.Path({table!r}), schemas.tables.MANIFEST)"
    everything = loaded_by("\n".join([*(f"import {name}" for name in modules("schemas")), reading]))
    assert "pyarrow" in everything
    assert not everything & {"torch", "ray", "transformers", "open_clip", "av", "decord", "pandas"}


def test_comparing_stages_is_light() -> None:
    everything = loaded_by("import tgmae.run, tgmae.status, pipeline.stage_specs, train.specs")
    assert not everything & {"torch", "ray", "transformers", "open_clip", "av", "decord"}


def test_the_command_is_light() -> None:
    everything = loaded_by("import tgmae.cli")
    assert not everything & {"torch", "ray", "transformers", "open_clip", "av", "decord", "pyarrow"}


def test_the_installed_command_answers() -> None:
    command = Path(sys.executable).parent / "tgmae"
    result = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "pretrain" in result.stdout, result.stderr


@pytest.mark.medium
def test_nothing_is_unpickled() -> None:
    """Shards, captions and weights come from strangers."""
    wrong = []
    for path in sources(*ROOMS):
        wrong += [
            f"{path.relative_to(ROOT)}:{line} imports {name}"
            for name, line in imported(path).items()
            if name in PICKLES
        ]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            if options.get("allow_pickle", "False") != "False":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} allows pickles")
            if ast.unparse(node.func) == "torch.load" and options.get("weights_only") != "True":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} torch.load without weights_only=True")
            if ast.unparse(node.func) in ("yaml.load", "yaml.unsafe_load", "eval", "exec", "np.load") and (
                ast.unparse(node.func) != "np.load" or "allow_pickle" not in options
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}: say allow_pickle=False")
    assert not wrong


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is for the user's own pip configuration to say."""
    hosts = [
        "py" + "pi.org",
        "pythonhosted" + ".org",
        "download." + "pytorch.org",
        "--index" + "-url",
        "--find" + "-links",
    ]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    wrong = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not path.is_file() or path.stat().st_size > 1_000_000:
            continue
        content = path.read_text(encoding="utf-8", errors="ignore")
        wrong += [f"{name} names {host}" for host in hosts if host in content]
    assert not wrong
