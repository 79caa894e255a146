"""`tgmae show`: writes the figures of a workspace as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.atomic import write_bytes
from schemas.config import Experiment
from schemas.errors import UserError
from schemas.workspace import Workspace
from tgmae.inspector.drawn_clips import Clips, chosen_run, experiment_of
from tgmae.inspector.reports import figures
from tgmae.inspector.reports.moving_pictures import save_moving
from tgmae.inspector.reports.text_fonts import fonts_for
from train.reconstructions import Statistics

FIGURES = ("masks", "reconstruction", "contrastive")
FORMATS = ("png", "svg", "gif", "mp4")


def show(
    workspace: Workspace,
    out: Path,
    *,
    video: str | None,
    run: str | None,
    wanted: Sequence[str],
    formats: Sequence[str],
    checkpoint: tuple[str, Statistics],
    say: Callable[[str], None],
) -> list[Path]:
    """Writes out/FIGURE.FORMAT and returns what was written. What cannot be drawn is said, with its reason.

    checkpoint: the weights of the reconstruction, and its statistics.

    Errors: UserError for a missing video or run, or where nothing can be drawn.
    """
    clips, run = Clips(workspace), chosen_run(workspace, run)
    experiment = experiment_of(workspace, run)
    row = find_row(clips, video, experiment.guide_name)
    chosen = _Chosen(clips, experiment, row, run, checkpoint)
    written: list[Path] = []
    for name in wanted:
        try:
            written += _written(name, chosen, out, formats, say)
        except UserError as error:
            say(f"{name}: not drawn: {error}")
    if not written:
        raise UserError("nothing could be drawn: the reasons are above")
    return written


@dataclass(frozen=True)
class _Chosen:
    """What is drawn: a video, and the run that it is drawn with."""

    clips: Clips
    experiment: Experiment
    row: int
    run: str | None
    checkpoint: tuple[str, Statistics]


def _written(name: str, chosen: _Chosen, out: Path, formats: Sequence[str], say: Callable[[str], None]) -> list[Path]:
    clips, experiment, row, run = chosen.clips, chosen.experiment, chosen.row, chosen.run
    if name == "contrastive":
        sheet, figure = None, figures.contrastive_figure(clips.workspace)
    elif name == "reconstruction":
        if run is None:
            raise UserError("there is no run yet (tgmae pretrain)")
        weights, statistics = chosen.checkpoint
        sheet = figures.reconstruction_sheet(clips, run, row, weights=weights, statistics=statistics)
        figure = figures.draw_sheet(sheet)
    else:
        sheet = figures.mask_sheet(clips, experiment, row)
        figure = figures.draw_sheet(sheet)
    if sheet is not None and (missing := fonts_for(sheet.text)[1]):
        say(f"{name}: no font on this machine has {missing}: install one (for Chinese: fonts-noto-cjk)")
    written = []
    for format in formats:
        path = out / f"{name}.{format}"
        if format in ("png", "svg"):
            write_bytes(path, figures.image_bytes(figure, format))
        elif sheet is None:
            continue  # a curve does not move
        else:
            moving = figures.mask_sheet(clips, experiment, row, every_frame=True) if name == "masks" else sheet
            save_moving(path, moving, clips.meta(row)[0].fps / experiment.clip.stride)
        say(str(path))
        written.append(path)
    return written


def find_row(clips: Clips, video: str | None, guide: str | None) -> int:
    """The row of a video by its name, key or the end of its name; without one, the first test video with maps.

    Errors: UserError where there is none, or several.
    """
    videos = clips.opened(None)
    ids = [str(each) for each in videos.strings("video_id")]
    if video is not None:
        exact = [
            row for row, (name, key) in enumerate(zip(ids, videos.all_keys(), strict=True)) if video in (name, key)
        ]
        found = exact or [row for row, name in enumerate(ids) if name.endswith(video)]
        if len(found) != 1:
            raise UserError(f"{len(found)} videos are called {video!r}: give its whole name")
        return found[0]
    with_maps = range(len(ids))
    if guide is not None:
        try:
            sidecar = clips.opened(guide).sidecar(guide)
            with_maps = [row for row in range(len(ids)) if sidecar.entries(row)]  # type: ignore[assignment]
        except UserError:
            pass
    splits = videos.strings("split")
    tests = [row for row in with_maps if splits[row] in ("test", "val")]
    return (tests or list(with_maps) or [0])[0]
