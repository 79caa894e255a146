"""Every command of the docs can be typed: commands, options, keys of the config and files are what there is.

Those that can run here are run by tests/tgmae/test_readme.py and tests/tgmae/test_pages.py.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from schemas.toml import load_experiment
from tgmae.cli import app
from train.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("tgmae", "torchrun", "srun", "python", "pytest", "make")


def blocks(page: Path) -> list[str]:
    """The lines of a page's blocks of code that are typed, those that go on joined."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    fenced = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    plain = re.findall(r"^    (\S.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    lines = [line.strip() for line in [*"\n".join(fenced).splitlines(), *plain]]
    return [
        line for line in lines if line.split()[:1] and line.split()[0] in PROGRAMS and not line.startswith("tgmae/")
    ]


def spans(page: Path) -> list[str]:
    """What a page's sentences and tables name of commands."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"`((?:{'|'.join(PROGRAMS)}) [^`\n]+)`", text)


def cases() -> list[Any]:
    found = [(page, line) for page in PAGES for line in [*blocks(page), *spans(page)]]
    return [pytest.param(line, id=f"{page.stem}: {line[:60]}") for page, line in dict.fromkeys(found)]


@pytest.mark.parametrize("line", cases())
def test_a_command_can_be_typed(line: str) -> None:
    words = shlex.split(re.sub(r"\[(--[a-z]+)\]", r"\1", line), comments=True)
    if words[0] == "srun":
        words = words[next(n for n, word in enumerate(words) if word in ("torchrun", "python")) :]
    if words[0] == "tgmae":
        assert_parses([word for word in words[1:] if word != "..."])
    elif "-m" in words and words[words.index("-m") + 1] == "train":
        assert_trains(words[words.index("-m") + 2 :])
    elif words[:2] == ["python", "-m"] and words[2] != "venv":
        assert ROOT.joinpath(*words[2].split(".")).with_suffix(".py").is_file()
    elif words[0] == "python" and words[1].endswith(".py"):
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in source for word in words[2:] if word.startswith("--")), line
    elif words[0] == "pytest":
        assert all((ROOT / word).exists() for word in words[1:] if word.startswith("tests/")), line
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in targets
    else:
        assert words[:3] == ["python", "-m", "venv"], line


def assert_parses(words: list[str]) -> None:
    """As a command line of tgmae; nothing is run. A bare command, in a sentence, is named without what it needs."""
    command: Any = typer.main.get_command(app)
    if words[0].startswith("--"):
        assert any(words[0] in option.opts for option in command.params) or words[0] == "--help"
        return
    while hasattr(command, "commands"):
        if words[0] not in command.commands and "list" in command.commands:
            words = ["list", *words]  # tgmae runs WORKSPACE
        command, words = command.commands[words[0]], words[1:]
        if not words:
            return
    options = [option for each in command.params for option in each.opts]
    assert all(word in options for word in words if word.startswith("--")), words
    if "--set" in words or "--config" in words:
        context = command.make_context(command.name, list(words))
        read(context.params.get("config"), [each for each in context.params.get("set") or [] if "$" not in each])


def assert_trains(words: list[str]) -> None:
    """As a command line of python -m train."""
    if not words:
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=COMMANDS)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(words)
    read(given.config, given.set)


def read(config: Any, sets: list[str]) -> None:
    """The config of the repository that is named, else a default one, with what is set."""
    path = ROOT / str(config)
    there = config is not None and path.is_file()
    assert there or not str(config).startswith("configs/"), f"there is no {config}"
    load_experiment(path if there else None, ["workspace=w", *sets])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = page.parent / place if place else page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


def test_the_map_leads_to_every_page() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md", "results_notes.md"}
    assert pages <= set(re.findall(r"\(([a-z_]+\.md)\)", text))


def test_the_estimate_is_what_the_program_prints() -> None:
    from bench.estimate import table

    page = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    assert table([1, 8], 16, 312, 0.4) in page


def test_the_benchmarks_are_what_the_program_makes() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "make_benchmarks.py"))["page"]
    written = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert written == page(), "bench/results changed: run python docs/make_benchmarks.py"


def test_what_was_not_measured_is_said_so(tmp_path: Path) -> None:
    """A section never fails for a file that is missing."""
    page = runpy.run_path(str(ROOT / "docs" / "make_benchmarks.py"))["page"](tmp_path)
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    assert len(sections) >= 5
    assert all("not measured yet" in section for section in sections), page
