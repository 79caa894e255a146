"""The command line. Light to import: what a command needs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from schemas.errors import UserError

OURS = ("schemas", "pipeline", "train", "tgmae")


class _Group(TyperGroup):
    """Errors meant for people come without a traceback; a stop says that nothing is lost."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in OURS:
                raise
            typer.echo(
                f"error: this command needs {error.name}, which is not installed: pip install 'tgmae[pipeline]' "
                "(index to guide) or 'tgmae[train]' (pretrain, probe)",
                err=True,
            )
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("stopped; what was done is kept, the same command goes on from there", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="tgmae",
    cls=_Group,
    help="Text-guided masked video pretraining, in stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path | None, typer.Option("--config", help="A TOML file of the experiment (docs/config.md).")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override one key, such as mask.ratio=0.6. Repeatable.")]
Folder = Annotated[Path, typer.Argument(help="The workspace.")]
Address = Annotated[str | None, typer.Option("--ray-address", help="A running Ray cluster, HOST:PORT or auto.")]
Budget = Annotated[str | None, typer.Option("--max-failures", help="'10%' or '25': beyond it the stage stops.")]


def _experiment(config: Path | None, overrides: list[str] | None, **given: Any) -> Any:
    """The experiment of a command; options of the command line win over --set, --set over the file."""
    from schemas.toml import load_experiment

    options = [f"{key.replace('__', '.')}={_quoted(value)}" for key, value in given.items() if value is not None]
    return load_experiment(config, [*(overrides or []), *options])


def _quoted(value: Any) -> str:
    import json

    return json.dumps(str(value))


def _run(stage: str, experiment: Any) -> None:
    from tgmae.run import decide
    from tgmae.stages import STAGES

    chosen = next(each for each in STAGES if each.name == stage)
    step = decide(chosen, experiment)
    typer.echo(str(step))
    if step.state == "runs":
        chosen.run(experiment)
        typer.echo(str(decide(chosen, experiment)))


@app.command()
def index(
    data: Annotated[Path, typer.Argument(help="The folder of the videos.")],
    out: Annotated[Path, typer.Option("--out", help="The workspace to make.")],
    format: Annotated[str | None, typer.Option(help="folder (class folders), csv or files.")] = None,
    list: Annotated[Path | None, typer.Option(help="The csv file: path,label[,start,end,text,split].")] = None,
    max_failures: Budget = None,
    config: Config = None,
    set: Set = None,
) -> None:
    """Find the videos, probe each with a real decoder, write the manifest."""
    given = {"workspace": out, "index__data": data, "index__format": format, "index__list": list}
    _run("index", _experiment(config, set, **given, max_failures=max_failures))


@app.command()
def caption(
    workspace: Folder,
    source: Annotated[str | None, typer.Option(help="blip2 or oracle.")] = None,
    ray_address: Address = None,
    max_failures: Budget = None,
    config: Config = None,
    set: Set = None,
) -> None:
    """Caption keyframes of every video, on Ray."""
    given = {"workspace": workspace, "captions": source, "ray__address": ray_address, "max_failures": max_failures}
    _run("caption", _experiment(config, set, **given))


@app.command()
def shard(
    workspace: Folder,
    ray_address: Address = None,
    max_failures: Budget = None,
    config: Config = None,
    set: Set = None,
) -> None:
    """Re-encode every video once for random access, into WebDataset tars."""
    given = {"workspace": workspace, "ray__address": ray_address, "max_failures": max_failures}
    _run("shard", _experiment(config, set, **given))


@app.command()
def guide(
    workspace: Folder,
    guide: Annotated[str | None, typer.Option(help="text.")] = None,
    captions: Annotated[str | None, typer.Option(help="The caption set: blip2 or oracle.")] = None,
    ray_address: Address = None,
    max_failures: Budget = None,
    config: Config = None,
    set: Set = None,
) -> None:
    """Score every patch of every frame against the captions, into sidecar tars, on Ray."""
    given = {"workspace": workspace, "guide": guide, "captions": captions, "ray__address": ray_address}
    _run("guide", _experiment(config, set, **given, max_failures=max_failures))


Captions = Annotated[str | None, typer.Option(help="The caption set: blip2 or oracle.")]
Name = Annotated[str | None, typer.Option(help="The name of the run.")]


@app.command()
def pretrain(
    workspace: Folder, captions: Captions = None, name: Name = None, config: Config = None, set: Set = None
) -> None:
    """Pretrain a video encoder from the shards, in a process (or several) of its own."""
    _run("pretrain", _experiment(config, set, workspace=workspace, captions=captions, name=name))


@app.command()
def probe(
    workspace: Folder, captions: Captions = None, name: Name = None, config: Config = None, set: Set = None
) -> None:
    """Train a linear classifier on the frozen features of a pretrained encoder."""
    _run("probe", _experiment(config, set, workspace=workspace, captions=captions, name=name))


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A TOML file of the experiment.")],
    set: Set = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be done, and why.")] = False,
    ray_address: Address = None,
) -> None:
    """Do what is not current, in order, saying why each stage runs or is skipped."""
    from tgmae import run as runner

    experiment = _experiment(config, set, ray__address=ray_address)
    if plan:
        for step in runner.plan(experiment):
            typer.echo(str(step))
    else:
        runner.run(experiment, typer.echo)


@app.command()
def status(
    workspace: Folder,
    failures: Annotated[int, typer.Option(min=0, help="How many failures to show, each stage.")] = 3,
) -> None:
    """Show the stages of a workspace: counts, failures, what is stale and why."""
    from schemas.workspace import Workspace
    from tgmae.status import lines

    for line in lines(Workspace(workspace), failures=failures):
        typer.echo(line)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("work/demo"),
    data: Annotated[
        Path | None, typer.Option(help="Your own class folders of videos, in place of the embedded world.")
    ] = None,
    set: Set = None,
) -> None:
    """Run every stage end to end on a small generated video world and write a report."""
    from tgmae.demo import demo as run_demo

    run_demo(out, data, set or [])


def main() -> None:
    """The console script."""
    app()
