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
    for command, example in ((inspect, "tgmae inspect work/ssv2"),):
        app.command(rich_help_panel=SHOW, epilog=f"Example: {example}")(command)


def inspect(
    workspace: Folder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0, or one that is taken: any that is free.")] = 8765,
    host: Annotated[
        str, typer.Option(help="The address to serve on; another than loopback lets other machines in.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    truth: Annotated[
        Path | None, typer.Option(help="Folder of the objects' true places, as `tgmae world` writes.")
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
