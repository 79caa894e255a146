"""What commands share: options, and how errors are printed. Light: for --help only the config is looked up."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from schemas.errors import user_error
from schemas.foreign_text import shown, shown_lines

OURS = ("schemas", "pipeline", "train", "tgmae")
KEPT = "what is done is kept, the same command resumes"


class Group(TyperGroup):
    """Errors meant for people come without a traceback; an interrupt reports that nothing is lost."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in OURS:
                raise
            typer.echo(
                f"error: this command needs {error.name}, which is not installed: pip install 'tgmae[pipeline]' "
                "(index to guide) or 'tgmae[train]' (pretrain, finetune, probe, retrieve)",
                err=True,
            )
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo(f"interrupted; {KEPT}", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            ours = user_error(error)
            if ours is None:
                raise
            typer.echo(f"error: {shown_lines(ours)}", err=True)
            raise typer.Exit(2) from None


Folder = Annotated[Path, typer.Argument(help="The workspace.")]


def option(key: str, help: str, *flags: str) -> Any:
    """An option that sets a key of the config; --help shows the key and its default."""
    from schemas.config import Experiment

    section: Any = Experiment
    *path, name = key.split(".")
    for each in path:
        section = section.model_fields[each].annotation
    field = section.model_fields[name]
    default = "" if field.is_required() or field.default in ("", None) else f"; default {json.dumps(field.default)}"
    return typer.Option(*flags, help=f"{help} (config: {key}{default})", show_default=False)


@dataclass(frozen=True)
class Given:
    """What the shared options of a command were given."""

    config: Path | None
    overrides: list[str]
    ray_address: str | None = None
    max_failures: str | None = None
    rebuild: bool = False

    def experiment(self, **keys: Any) -> Any:
        """The experiment; a command's own options win over --set, --set over the file. Keys have __ for dots."""
        from schemas.toml import load_experiment

        keys |= {"ray__address": self.ray_address, "max_failures": self.max_failures}
        given = [f"{key.replace('__', '.')}={quoted(value)}" for key, value in keys.items() if value is not None]
        return load_experiment(self.config, [*self.overrides, *given])

    def of_run(self, workspace: Path, name: str | None, **keys: Any) -> Any:
        """The experiment that a run was trained with, under the options given; without such a run, as experiment()."""
        from dataclasses import replace

        from schemas.workspace import Workspace

        config = Workspace(workspace).run(name or "pretrain") / "config.toml"
        given = self if self.config is not None or not config.is_file() else replace(self, config=config)
        if given is not self:
            typer.echo(f"config of the run: {config}")
        return given.experiment(workspace=workspace, name=name, **keys)

    def run(self, stage: str, experiment: Any) -> None:
        from tgmae.run import run_one

        run_one(stage, experiment, lambda line: typer.echo(shown(line)), rebuild=self.rebuild)


def quoted(value: Any) -> str:
    return json.dumps(str(value))


Config = Annotated[
    Path | None,
    typer.Option("--config", help="A TOML file of the experiment (docs/config.md).", rich_help_panel="Config"),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one key, such as mask.ratio=0.6. Repeatable.", rich_help_panel="Config"),
]
Address = Annotated[
    str | None,
    typer.Option("--ray-address", help="A running Ray cluster, HOST:PORT or auto; by default Ray is started here.",
                 rich_help_panel="Where and how"),
]  # fmt: skip
SHARED: dict[str, Any] = {
    "ray_address": Address,
    "max_failures": Annotated[
        str | None,
        typer.Option("--max-failures", help="'10%' or '25': beyond it the stage stops.",
                     rich_help_panel="Where and how"),
    ],
    "rebuild": Annotated[
        bool,
        typer.Option("--rebuild", help="Replace what was built with another config. It stays until the new one is "
                     "finished; a run is kept aside.", rich_help_panel="Where and how"),
    ],
}  # fmt: skip
_DEFAULTS: dict[str, Any] = {"rebuild": False}


def experiment_command(*shared: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command --config, --set and the shared options named; its first parameter takes them, as Given."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = list(inspect.signature(command).parameters.values())[1:]
        added = {name: SHARED[name] for name in shared} | {"config": Config, "set": Set}

        @functools.wraps(command)
        def call(**given: Any) -> None:
            options = {name: given.pop(name) for name in added}
            command(Given(overrides=options.pop("set") or [], **options), **given)

        parameters = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[each.name]) for each in own
        ] + [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=kind)
            for name, kind in added.items()
        ]
        vars(call)["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {each.name: hints[each.name] for each in own} | added | {"return": None}
        return call

    return decorate
