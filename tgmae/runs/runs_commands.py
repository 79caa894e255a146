"""`tgmae runs WORKSPACE`, and what can be done with a run: rename, restore, remove."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.errors import UserError, nearest
from schemas.foreign_text import shown
from tgmae.options import Folder, Group

LIST = "list"


class _ListByDefault(Group):
    """A workspace in place of an action: its runs are listed, or the action after it is done there."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not args[0].startswith("-"):
            near = nearest(args[0], self.commands, cutoff=0.6)
            if near and not Path(args[0]).exists():
                raise UserError(f"there is no action or workspace {args[0]!r}: did you mean {near[0]!r}?")
            action = args[1] if args[1:] and args[1] in self.commands else LIST
            args = [action, args[0], *(args[1:] if action == LIST else args[2:])]
        return super().resolve_command(ctx, args)


def register(app: typer.Typer) -> None:
    runs = typer.Typer(cls=_ListByDefault, no_args_is_help=True, rich_markup_mode="rich")
    for name, command, example in (
        (LIST, list_runs, "tgmae runs list work/ssv2, or tgmae runs work/ssv2"),
        ("rename", rename, "tgmae runs rename work/ssv2 pretrain text-60"),
        ("restore", restore, "tgmae runs restore work/ssv2 pretrain.0123456789abcdef"),
        ("remove", remove, "tgmae runs remove work/ssv2 pretrain.0123456789abcdef guides/.text-blip2.building"),
    ):
        runs.command(name, epilog=f"Example: {example}")(command)
    app.add_typer(
        runs, name="runs", epilog="Examples: tgmae runs work/ssv2, tgmae runs rename work/ssv2 pretrain text-60",
        help="List runs, those kept aside and leftovers; rename, restore, remove them. WORKSPACE alone lists, and may "
             "stand before the action.",
    )  # fmt: skip


RunName = Annotated[str, typer.Argument(help="The run, as `tgmae runs WORKSPACE` lists it.", metavar="NAME")]


def list_runs(workspace: Folder) -> None:
    """List the runs of a workspace: state, size, last change; in what runs of one name differ; leftovers."""
    from schemas.workspace import Workspace
    from tgmae.runs.inventory import lines

    for line in lines(Workspace(workspace)):
        typer.echo(shown(line))


def rename(
    workspace: Folder, name: RunName, new: Annotated[str, typer.Argument(help="Its new name.", metavar="NEW")]
) -> None:
    """Give a run another name; one that was kept aside becomes a run of its own."""
    from schemas.workspace import Workspace
    from tgmae.runs.changes import rename as rename_run

    typer.echo(shown(f"{name} is {rename_run(Workspace(workspace), name, new)} now"))


def restore(workspace: Folder, name: RunName) -> None:
    """Put a run that was kept aside back in its place; the one there is kept aside in turn."""
    from schemas.workspace import Workspace
    from tgmae.runs.changes import restore as restore_run

    for source, target in restore_run(Workspace(workspace), name):
        typer.echo(shown(f"{source} is moved to {target}"))


def remove(
    workspace: Folder,
    names: Annotated[list[str], typer.Argument(help="Runs or leftovers, as `tgmae runs WORKSPACE` lists them.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete runs, runs kept aside and leftovers: what is being written is refused."""
    from schemas.workspace import Workspace
    from tgmae.runs.changes import removable
    from tgmae.runs.changes import remove as remove_run

    chosen = removable(Workspace(workspace), names)
    folders = ", ".join(str(item.folder) for item in chosen)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"this would delete {folders}: nothing was done; --yes does it")
        typer.confirm(shown(f"Delete {folders}?"), abort=True)
    for item in chosen:
        remove_run(item)
        typer.echo(shown(f"deleted {item.folder}"))
