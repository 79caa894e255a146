"""The commands that show a workspace: inspect, report, show. Light: what they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UserError
from schemas.foreign_text import shown
from tgmae.options import Folder

SHOW = "Look"  # panel of --help


def register(app: typer.Typer) -> None:
    for command, example in (
        (inspect, "tgmae inspect work/ssv2"),
        (report, "tgmae report work/ssv2 --out report.html"),
        (show, "tgmae show work/ssv2 --out pictures --format png --format gif"),
    ):
        app.command(rich_help_panel=SHOW, epilog=f"Example: {example}")(command)


def inspect(
    workspace: Folder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0, or one that is taken: any that is free.")] = 8765,
    host: Annotated[
        str, typer.Option(help="The address to serve on; another than loopback lets other machines in.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    truth: Annotated[
        Path | None,
        typer.Option(help="Folder of the objects' true places (the demo's: OUT/world/truth); by default none."),
    ] = None,
) -> None:
    """Browse a workspace on a local web page: videos, captions, score maps, masks, runs, failures."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"tgmae inspect needs {error.name}, which is not installed: pip install 'tgmae[train,inspect]'"
        ) from None
    from tgmae.inspector.server import serve

    serve(workspace, host=host, port=port, browser=browser, truth=truth, say=lambda line: typer.echo(shown(line)))


Run = Annotated[str | None, typer.Option("--name", help="The run; by default the latest.")]
Truth = Annotated[
    Path | None,
    typer.Option("--truth", help="Folder of the objects' true places (the demo's: OUT/world/truth); by default none."),
]


def report(
    workspace: Folder,
    out: Annotated[Path | None, typer.Option("--out", help="The file; by default WORKSPACE/report.html.")] = None,
    name: Run = None,
    truth: Truth = None,
) -> None:
    """Write one HTML file to send: what was hidden, whether it finds the object, what was learned, against what."""
    from schemas.workspace import Workspace
    from tgmae.inspector.reports.workspace_report import report_workspace

    path = out or workspace / "report.html"
    report_workspace(Workspace(workspace), path, run=name, truth=truth)
    typer.echo(shown(path))


def show(
    workspace: Folder,
    out: Annotated[Path, typer.Option("--out", help="The folder for the pictures.")],
    video: Annotated[
        str | None, typer.Option("--video", help="Its name, its end or its key; by default the first test video.")
    ] = None,
    name: Run = None,
    figure: Annotated[
        list[str] | None, typer.Option("--figure", help="masks, reconstruction, contrastive; by default all of them.")
    ] = None,
    format: Annotated[
        list[str] | None, typer.Option("--format", help="png, svg, gif, mp4; png by default. Repeatable.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="For the reconstruction: model, untrained, or a checkpoint's folder.")
    ] = "model",
    statistics: Annotated[
        str, typer.Option("--statistics", help="neighbours: nothing hidden is looked at; true: as papers do, said so.")
    ] = "neighbours",
) -> None:
    """Draw the paper's figures of your own videos: every kind of mask, a reconstruction, the contrastive loss."""
    from schemas.errors import choice_error
    from schemas.workspace import Workspace
    from tgmae.inspector.reports.show_figures import FIGURES, FORMATS
    from tgmae.inspector.reports.show_figures import show as draw
    from train.reconstructions import STATISTICS

    for what, given, allowed in (("figure", figure, FIGURES), ("format", format, FORMATS),
                                 ("statistics", [statistics], STATISTICS)):  # fmt: skip
        for each in given or []:
            if each not in allowed:
                raise choice_error(what, each, allowed)
    draw(Workspace(workspace), out, video=video, run=name, wanted=figure or FIGURES, formats=format or ("png",),
         checkpoint=(weights, "true" if statistics == "true" else "neighbours"),
         say=lambda line: typer.echo(shown(line)))  # fmt: skip
