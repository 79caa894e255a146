"""The command line. Light to import: what a command needs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UserError
from schemas.foreign_text import shown, shown_lines
from schemas.signals import exit_on_sigterm
from tgmae import stage_commands
from tgmae.inspector import view_commands
from tgmae.options import KEPT, Address, Folder, Given, Group, Set, quoted
from tgmae.runs import runs_commands

app = typer.Typer(
    name="tgmae",
    cls=Group,
    help="Text-guided masked video pretraining, in stages.",
    epilog="Begin with `tgmae demo`, or with `tgmae index` on your own videos. The stages in a row: `tgmae run`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tgmae {version('tgmae')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only results and errors.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Progress as JSON, a line an event, on stderr (docs/inspector.md).")
    ] = False,
) -> None:
    if quiet or json:
        from schemas.progress import choose_style

        choose_style("quiet" if quiet else "json")
    exit_on_sigterm(f"terminated; {KEPT}")


stage_commands.register(app)
view_commands.register(app)


@app.command(epilog="Example: tgmae export work/ssv2/runs/pretrain --to-hf out")
def export(
    run: Annotated[
        Path, typer.Argument(help="The folder of a run, or its finetune folder; for FiftyOne the workspace.")
    ],
    to_hf: Annotated[
        Path | None, typer.Option("--to-hf", help="The transformers folder to write, in place of --to-fiftyone.")
    ] = None,
    to_fiftyone: Annotated[
        Path | None,
        typer.Option(
            "--to-fiftyone", help="The FiftyOne dataset to write: clips, captions, maps, masks; in place of --to-hf."
        ),
    ] = None,
    guide: Annotated[
        str | None, typer.Option(help="FiftyOne: the guide whose maps are written; by default the run's.")
    ] = None,
    videos: Annotated[int | None, typer.Option(min=1, help="FiftyOne: at most so many; by default all.")] = None,
) -> None:
    """Write a run's weights as plain transformers loads them (docs/weights.md), or a workspace for FiftyOne."""
    if (to_hf is None) == (to_fiftyone is None):
        raise UserError("name one of --to-hf OUT (of a run) and --to-fiftyone OUT (of a workspace)")
    if to_hf is not None:
        from train.export import export_hf

        typer.echo(f"{export_hf(run, to_hf)}: {to_hf}")
    elif to_fiftyone is not None:
        from schemas.workspace import Workspace
        from tgmae.inspector.reports.fiftyone_export import export_fiftyone

        count = export_fiftyone(Workspace(run), to_fiftyone, guide=guide, most=videos)
        typer.echo(f"{count} videos: {to_fiftyone}")


ExperimentFile = Annotated[Path, typer.Argument(help="A TOML file of the experiment (docs/config.md).")]


@app.command(epilog="Example: tgmae run configs/example.toml --set captions=oracle --plan")
def run(
    config: ExperimentFile,
    set: Set = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print what would be done, and why.")] = False,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --plan: also batch, memory and hours of pretraining by so many GPUs; by default not."
        ),
    ] = None,
    ray_address: Address = None,
) -> None:
    """Build what is not current, in order, and print why each stage is built or skipped."""
    from tgmae import run as runner

    experiment = Given(config, set or [], ray_address).experiment()
    if ranks is not None and not plan:
        raise UserError("--ranks says what a training would be: it goes with --plan; pretrain.processes starts one")
    if plan:
        from tgmae.training_plan import device_lines, rank_lines

        steps = runner.plan(experiment)
        lines = [step.line("would be") for step in steps] + device_lines(experiment, steps)
        for line in lines + ([] if ranks is None else rank_lines(experiment, ranks)):
            typer.echo(shown(line))
    else:
        runner.run(experiment, lambda line: typer.echo(shown(line)))


@app.command(
    epilog="Example: tgmae sweep configs/paper/table1_k400_tgm.toml configs/paper/table1_k400_tube.toml --seeds 3"
)
def sweep(
    configs: Annotated[list[Path], typer.Argument(help="TOML files of experiments.")],
    seeds: Annotated[int, typer.Option(min=1, help="Run each with the seeds 0, 1, ... as NAME-s0, NAME-s1, ...")] = 1,
    set: Set = None,
    ray_address: Address = None,
) -> None:
    """Run a list of experiments, skipping what is done; on a Ray cluster their trainings run side by side."""
    from tgmae.runs.sweep import experiments
    from tgmae.runs.sweep import sweep as run_all

    overrides = [*(set or []), *([f"ray.address={quoted(ray_address)}"] if ray_address else [])]
    failed = run_all(experiments(configs, overrides, seeds), lambda line: typer.echo(shown(line)))
    for problem in failed:
        typer.echo(f"failed: {shown(problem)}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: tgmae table work/ssv2 work/k400 --paper")
def table(
    folders: Annotated[list[Path], typer.Argument(help="Workspaces, or folders that hold some.")],
    paper: Annotated[bool, typer.Option("--paper", help="The paper's tables, its numbers next to ours.")] = False,
) -> None:
    """Show the results of finetune, probe and retrieve as a Markdown table: the mean over seeds, and its spread."""
    from tgmae.tables.result_tables import find_results, paper_tables, run_table

    results = find_results(folders)
    typer.echo(shown_lines(paper_tables(results) if paper else run_table(results)))


@app.command(epilog="Example: tgmae status work/ssv2 --failures 10")
def status(
    workspace: Folder,
    failures: Annotated[int, typer.Option(min=0, help="How many failures to show, each stage.")] = 3,
) -> None:
    """Show the stages of a workspace: counts, failures, what is stale and why."""
    from schemas.workspace import Workspace
    from tgmae.status import lines

    for line in lines(Workspace(workspace), failures=failures):
        typer.echo(shown(line))


runs_commands.register(app)

captions = typer.Typer(cls=Group, help="Describe and compare caption sets.", no_args_is_help=True)
app.add_typer(captions, name="captions")


@captions.command("stats", epilog="Example: tgmae captions stats work/ssv2 --set blip2")
def captions_stats(
    workspace: Folder,
    set: Annotated[str | None, typer.Option("--set", help="One caption set; all of them where none is named.")] = None,
) -> None:
    """Coverage, length, duplicates, frequent words, CLIP score where a text guide exists, examples."""
    from schemas.workspace import Workspace
    from tgmae.caption_stats import stats

    for line in stats(Workspace(workspace), set):
        typer.echo(shown(line))


@captions.command("diff", epilog="Example: tgmae captions diff work/ssv2 blip2 llm")
def captions_diff(
    workspace: Folder,
    first: Annotated[str, typer.Argument(help="A caption set.")],
    second: Annotated[str, typer.Argument(help="Another.")],
) -> None:
    """What two caption sets have in common, and where they differ."""
    from schemas.workspace import Workspace
    from tgmae.caption_stats import diff

    for line in diff(Workspace(workspace), first, second):
        typer.echo(shown(line))


@app.command(epilog="Example: tgmae world data/world --videos 200 --seed 3")
def world(
    out: Annotated[Path, typer.Argument(help="The folder to draw into.")],
    videos: Annotated[int, typer.Option(min=1, help="How many.")] = 640,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Pixels, of width and of height.")] = 128,
    test_share: Annotated[float, typer.Option(min=0, max=0.99, help="Of the videos, for OUT/test.")] = 0.25,
) -> None:
    """Draw the embedded world: small labelled videos with known object masks, in class folders."""
    from pipeline.world.write import write_world

    write_world(out, videos=videos, seed=seed, size=size, test_share=test_share)


@app.command(epilog="Example: tgmae demo --seed 3 --out work/demo3")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("work/demo"),
    data: Annotated[
        Path | None, typer.Option(help="Your own class folders of videos, in place of the embedded world.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the world's videos and of pretraining.")] = 0,
    set: Set = None,
) -> None:
    """Run every stage end to end on a small generated video world and write a report."""
    from tgmae.demo.demo import demo as run_demo

    run_demo(out, data, set or [], seed)


def main() -> None:
    """The console script."""
    app()
