"""What pyproject.toml promises: pins for everything, a command that runs, models that travel with the wheel."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, entry_points, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.test_imports import ROOMS, imported

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
DISTRIBUTION = {  # where the import has another name
    "PIL": "pillow", "cv2": "opencv-python-headless", "open_clip": "open_clip_torch"
}  # fmt: skip
OPTIONAL = {
    "wandb",
    "lavis",
    "starlette",
    "uvicorn",
}  # where asked for, with an error that says how to get it
LEFT_TO_TORCH = ("nvidia-", "cuda-", "triton")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def direct(project: dict[str, Any]) -> list[Requirement]:
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for line in [*project["dependencies"], *(line for extra in extras for line in extra)]]


def pinned(constraints: list[Requirement], name: str, python: str) -> str | None:
    """The one version of `name` that the constraints allow on this Python."""
    found = [
        pin
        for pin in constraints
        if canonicalize_name(pin.name) == canonicalize_name(name)
        and (
            pin.marker is None or pin.marker.evaluate({"python_version": python, "python_full_version": f"{python}.0"})
        )
    ]
    assert len(found) <= 1, f"{name} has {len(found)} pins on Python {python}"
    return str(found[0].specifier).removeprefix("==") if found else None


def test_every_constraint_is_one_exact_version(constraints: list[Requirement]) -> None:
    assert [str(pin) for pin in constraints if not re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier))] == []


@pytest.mark.parametrize("python", PYTHONS)
def test_direct_dependencies_are_pinned_to_what_they_allow(
    project: dict[str, Any], constraints: list[Requirement], python: str
) -> None:
    for wanted in direct(project):
        if wanted.marker is not None and not wanted.marker.evaluate({"python_version": python}):
            continue
        version = pinned(constraints, wanted.name, python)
        assert version is not None, f"{wanted.name} is not pinned on Python {python}"
        assert version in wanted.specifier, f"{wanted} does not allow the pinned {version}"


def test_everything_those_bring_in_is_pinned(project: dict[str, Any], constraints: list[Requirement]) -> None:
    """Walks the installed packages, so it speaks for this Python only."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    waiting = [(wanted, "") for wanted in direct(project)]
    seen: set[tuple[str, str]] = set()
    loose = set()
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        if not name.startswith(LEFT_TO_TORCH) and pinned(constraints, name, python) is None:
            loose.add(name)
        for option in ("", *wanted.extras):
            if (name, option) in seen:
                continue
            seen.add((name, option))
            try:
                below = requires(name) or []
            except PackageNotFoundError:
                continue  # an environment without this extra
            waiting += [(Requirement(line), option) for line in below]
    assert not loose


def test_supported_pythons_agree(project: dict[str, Any]) -> None:
    supported = SpecifierSet(project["requires-python"])
    assert [python for python in PYTHONS if python not in supported] == []
    assert "3.9" not in supported
    assert "3.14" not in supported


def test_the_command_resolves(project: dict[str, Any]) -> None:
    assert project["scripts"] == {"tgmae": "tgmae.cli:main"}
    (command,) = entry_points(group="console_scripts", name="tgmae")
    assert callable(command.load())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("tgmae-*.whl")
    return path


@pytest.mark.medium
def test_the_wheel_holds_every_room_and_what_ships_with_it(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("tgmae-")}
    wanted = [path for room in ROOMS for path in (ROOT / room).rglob("*")]
    configs = [path for path in (ROOT / "configs").rglob("*") if path.is_file()]
    models = [path for path in (ROOT / "pipeline" / "world" / "models").rglob("*") if path.is_file()]
    assert models and configs, "there are no models: make demo-models"
    names = {path.relative_to(ROOT).as_posix() for path in wanted if path.is_file() and "__pycache__" not in path.parts}
    assert inside == names | {f"tgmae/{path.relative_to(ROOT).as_posix()}" for path in configs}
    assert {f"{room}/py.typed" for room in ROOMS} <= inside
    assert sum(path.stat().st_size for path in models) <= 12_000_000


def test_the_wheel_needs_no_clone(wheel: Path, tmp_path: Path) -> None:
    """Its configs and models are found where it is installed."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; import tgmae.shipped_files as shipped; from tgmae.demo.demo import demo_experiment\n"
        "assert Path(sys.argv[1]) in shipped.CONFIGS.parents and Path(sys.argv[1]) in shipped.WORLD_MODELS.parents\n"
        "assert (shipped.CONFIGS / 'paper').is_dir() and (shipped.WORLD_MODELS / 'clip').is_dir()\n"
        "print(demo_experiment(Path('out'), None, []).name)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "site")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stdout.strip(), result.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_every_folder_with_sources_is_a_package(room: str) -> None:
    folders = {path.parent for path in (ROOT / room).rglob("*.py")}
    assert [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_page_of_the_config_is_current() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "make_config_md.py"))["page"]
    written = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert written == page(), "schemas/config/ changed: run python docs/make_config_md.py"


@pytest.mark.parametrize(
    ("room", "extras"),
    [("schemas", ()), ("pipeline", ("pipeline",)), ("train", ("train",)), ("tgmae", ("pipeline", "train"))],
)
def test_a_room_imports_what_its_extra_brings(project: dict[str, Any], room: str, extras: tuple[str, ...]) -> None:
    """By name, not by what happens to come along with something else."""
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    brought = {canonicalize_name(Requirement(line).name) for line in wanted}
    found = {name for path in (ROOT / room).rglob("*.py") for name in imported(path)}
    outside = found - set(ROOMS) - sys.stdlib_module_names - OPTIONAL - {"tomllib"}  # not listed by Python 3.10
    assert {canonicalize_name(DISTRIBUTION.get(name, name)) for name in outside} <= brought
