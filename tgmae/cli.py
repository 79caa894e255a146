"""The command line. Light to import: what a command needs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from schemas.errors import UserError
from schemas.foreign import shown, shown_lines

OURS = ("schemas", "pipeline", "train", "tgmae")


class _Group(TyperGroup):
    """Errors meant for people come without a traceback; a stop says that nothing is lost."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"error: {shown_lines(error)}", err=True)
            raise typer.Exit(2) from None
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
    typer.echo(shown(step))
    if step.state == "runs":
        chosen.run(experiment)
        typer.echo(shown(decide(chosen, experiment)))


@app.command()
def index(
    data: Annotated[Path, typer.Argument(help="The folder of the videos.")],
    out: Annotated[Path, typer.Option("--out", help="The workspace to make.")],
    format: Annotated[
        str | None, typer.Option(help="folder, csv, files, ssv2, kinetics, videomae, ucf101, hmdb51, diving48, ...")
    ] = None,
    list: Annotated[
        Path | None, typer.Option(help="csv: path,label[,start,end,text,split]. epic55: what is for validation.")
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="Folder of the dataset's own annotation files.")] = None,
    split: Annotated[int | None, typer.Option(help="Official split of ucf101 and hmdb51: 1, 2 or 3.")] = None,
    max_failures: Budget = None,
    config: Config = None,
    set: Set = None,
) -> None:
    """Find the videos, probe each with a real decoder, write the manifest."""
    given = {"workspace": out, "index__data": data, "index__format": format, "index__list": list}
    given |= {"index__annotations": annotations, "max_failures": max_failures}
    _run("index", _experiment(config, set, **given, index__split=split))


@app.command()
def caption(
    workspace: Folder,
    source: Annotated[
        str | None, typer.Option(help="blip2, blip, lavis, oracle, llm, file; or a mix: blip2+llm.")
    ] = None,
    ray_address: Address = None,
    max_failures: Budget = None,
    config: Config = None,
    set: Set = None,
) -> None:
    """Make a caption set: of keyframes by a model, on Ray; or of labels, descriptions, files, other sets."""
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
def features(
    workspace: Folder,
    ray_address: Address = None,
    max_failures: Budget = None,
    config: Config = None,
    set: Set = None,
) -> None:
    """Keep every patch's embedding, so that another caption set needs the text tower only (text.cache)."""
    given = {"workspace": workspace, "ray__address": ray_address, "max_failures": max_failures}
    _run("features", _experiment(config, set, **given))


@app.command()
def guide(
    workspace: Folder,
    guide: Annotated[
        str | None,
        typer.Option(
            help="text, embeddings, motion-vectors, optical-flow, flow-magnitude; or a class of your own as "
            "module:ClassName (docs/custom_guides.md)."
        ),
    ] = None,
    captions: Annotated[
        str | None, typer.Option(help="The caption set of text and embeddings, such as blip2 or blip2+llm.")
    ] = None,
    grid_stride: Annotated[
        int | None, typer.Option(help="text: pixels from one patch to the next; below text.patch they overlap.")
    ] = None,
    crop_size: Annotated[
        int | None, typer.Option(help="text: pixels that the encoder is made for, below its own for speed.")
    ] = None,
    ray_address: Address = None,
    max_failures: Budget = None,
    config: Config = None,
    set: Set = None,
) -> None:
    """Score every patch by captions, motion or a class of your own, into tars beside the clips', on Ray."""
    given = {"workspace": workspace, "captions": captions, "text__grid_stride": grid_stride,
             "text__crop_size": crop_size, "ray__address": ray_address, "max_failures": max_failures}  # fmt: skip
    experiment = _experiment(config, set, **given)
    # Set past the check that the config's mask can use it: here only the guide is made.
    _run("guide", experiment.model_copy(update={"guide": guide}) if guide else experiment)


Captions = Annotated[str | None, typer.Option(help="The caption set, such as blip2 or blip2+llm.")]
Name = Annotated[str | None, typer.Option(help="The name of the run.")]


@app.command()
def pretrain(
    workspace: Folder,
    captions: Captions = None,
    name: Name = None,
    init_from_hf: Annotated[
        Path | None, typer.Option(help="Start from a transformers folder (or any of docs/weights.md): model.init.")
    ] = None,
    ray_address: Address = None,
    config: Config = None,
    set: Set = None,
) -> None:
    """Pretrain a video encoder from the shards, in processes of its own; on a Ray cluster, by Ray Train."""
    given = {"workspace": workspace, "captions": captions, "name": name, "ray__address": ray_address}
    _run("pretrain", _experiment(config, set, **given, model__init=init_from_hf))


@app.command()
def finetune(
    workspace: Folder, name: Name = None, ray_address: Address = None, config: Config = None, set: Set = None
) -> None:
    """Fine-tune an encoder to tell classes apart and test it by several views of each video (docs/finetune.md)."""
    _run("finetune", _experiment(config, set, workspace=workspace, name=name, ray__address=ray_address))


@app.command()
def probe(
    workspace: Folder, captions: Captions = None, name: Name = None, config: Config = None, set: Set = None
) -> None:
    """Tell classes apart by the frozen features of an encoder: linear classifiers and k-NN."""
    _run("probe", _experiment(config, set, workspace=workspace, captions=captions, name=name))


@app.command()
def retrieve(
    workspace: Folder, captions: Captions = None, name: Name = None, config: Config = None, set: Set = None
) -> None:
    """Find videos by videos with the frozen features of an encoder, and captions, where it has a contrastive head."""
    _run("retrieve", _experiment(config, set, workspace=workspace, captions=captions, name=name))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or its finetune folder.")],
    to_hf: Annotated[Path, typer.Option("--to-hf", help="The transformers folder to write.")],
) -> None:
    """Write a run's weights as plain transformers loads them (docs/weights.md)."""
    from train.export import export_hf

    typer.echo(f"{export_hf(run, to_hf)}: {to_hf}")


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
            typer.echo(shown(step))
    else:
        runner.run(experiment, lambda line: typer.echo(shown(line)))


@app.command()
def sweep(
    configs: Annotated[list[Path], typer.Argument(help="TOML files of experiments.")],
    seeds: Annotated[int, typer.Option(min=1, help="Run each with the seeds 0, 1, ... as NAME-s0, NAME-s1, ...")] = 1,
    set: Set = None,
    ray_address: Address = None,
) -> None:
    """Run a list of experiments, skipping what is done; on a Ray cluster their trainings run side by side."""
    from tgmae.sweep import experiments
    from tgmae.sweep import sweep as run_all

    overrides = [*(set or []), *([f"ray.address={_quoted(ray_address)}"] if ray_address else [])]
    failed = run_all(experiments(configs, overrides, seeds), lambda line: typer.echo(shown(line)))
    for problem in failed:
        typer.echo(f"failed: {shown(problem)}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def table(
    folders: Annotated[list[Path], typer.Argument(help="Workspaces, or folders that hold some.")],
    paper: Annotated[bool, typer.Option("--paper", help="The paper's tables, its numbers beside ours.")] = False,
) -> None:
    """Show the results of finetune, probe and retrieve as a Markdown table: the mean over seeds, and its spread."""
    from tgmae.result_tables import find_results, paper_tables, run_table

    results = find_results(folders)
    typer.echo(shown_lines(paper_tables(results) if paper else run_table(results)))


@app.command()
def status(
    workspace: Folder,
    failures: Annotated[int, typer.Option(min=0, help="How many failures to show, each stage.")] = 3,
) -> None:
    """Show the stages of a workspace: counts, failures, what is stale and why."""
    from schemas.workspace import Workspace
    from tgmae.status import lines

    for line in lines(Workspace(workspace), failures=failures):
        typer.echo(shown(line))


captions = typer.Typer(cls=_Group, help="Describe and compare caption sets.", no_args_is_help=True)
app.add_typer(captions, name="captions")


@captions.command("stats")
def captions_stats(
    workspace: Folder,
    set: Annotated[str | None, typer.Option("--set", help="One caption set; all of them where none is named.")] = None,
) -> None:
    """Coverage, length, duplicates, frequent words, CLIP score where a text guide exists, examples."""
    from schemas.workspace import Workspace
    from tgmae.caption_stats import stats

    for line in stats(Workspace(workspace), set):
        typer.echo(shown(line))


@captions.command("diff")
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


@app.command()
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


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("work/demo"),
    data: Annotated[
        Path | None, typer.Option(help="Your own class folders of videos, in place of the embedded world.")
    ] = None,
    set: Set = None,
) -> None:
    """Run every stage end to end on a small generated video world and write a report."""
    from tgmae.demo.demo import demo as run_demo

    run_demo(out, data, set or [])


def main() -> None:
    """The console script."""
    app()
