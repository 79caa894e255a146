"""`tgmae report`: what a workspace's masks hide, whether they find the object, what a run learned, against what."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from schemas.config import Experiment
from schemas.errors import UserError
from schemas.stage import read_record
from schemas.tables import FAILURES, SKIPPED, read_table
from schemas.workspace import Workspace
from tgmae.inspector import run_views
from tgmae.inspector.catalogue import stage_folders
from tgmae.inspector.drawn_clips import Clips, as_the_run, chosen_run, experiment_of, hidden_in_words
from tgmae.inspector.known_objects import truth_folder
from tgmae.inspector.reports import figures
from tgmae.inspector.reports.show_figures import find_row
from tgmae.inspector.reports.summary_page import Answer, Bar, Line, Picture, Report, Table, write_report
from tgmae.tables.run_conditions import wilson

PICTURES = 6  # videos in the gallery
CURVES = ("loss", "reconstruction", "contrastive")


def report_workspace(
    workspace: Workspace,
    path: Path,
    *,
    run: str | None = None,
    truth: Path | None = None,
    measured: dict[str, Any] | None = None,
    tables: list[Table] | None = None,
) -> None:
    """Writes the page. measured: what is known already (`tgmae demo` has measured it); else it is measured here where
    the truth is known. Errors: UserError for a folder that is no workspace, or a missing run.
    """
    if not (workspace.manifest / "manifest.parquet").is_file():
        raise UserError(f"{workspace.root} is not a workspace: it has no manifest (tgmae index DATA --out ...)")
    run = chosen_run(workspace, run)
    experiment = experiment_of(workspace, run)
    found = measured if measured is not None else _measured(experiment, truth_folder(workspace, truth))
    about = run_views.summary(workspace, run) if run else {}
    bars = run_views.compared(about) if about else []
    notes = [f"Workspace {workspace.root.resolve()}{f', run {run}' if run else ''}. {_counted(workspace)}"]
    if "seconds" in found:
        notes.append(f"Made in {found['seconds']} s.")
    write_report(
        path,
        Report(
            title=f"{workspace.root.resolve().parent.name or 'tgmae'}: what was hidden, and what was learned",
            notes=notes,
            answers=[
                _hidden(workspace, experiment, run),
                _object(found, experiment),
                _learned(bars),
                _against(bars, found),
            ],
            lines=_lines(found, bars),
            tables=[*(tables or []), *_confusion(workspace, run)],
            pictures=_pictures(workspace, experiment, run),
        ),
    )


def _measured(experiment: Experiment, truth: Path | None) -> dict[str, Any]:
    if truth is None or experiment.guide != "text":
        return {}
    from tgmae.demo.mask_accuracy import compare_masks

    try:
        return dict(compare_masks(experiment, truth))
    except (UserError, OSError):  # no guide yet, or truth of other videos
        return {}


def _counted(workspace: Workspace) -> str:
    said = []
    for folder in stage_folders(workspace):
        record = read_record(folder)
        if record is None:
            continue
        path = folder / "failures.parquet"
        failed = (
            [row for row in read_table(path, FAILURES).column("error").to_pylist() if row not in SKIPPED]
            if path.is_file()
            else []
        )
        name = folder.relative_to(workspace.root).as_posix()
        said.append(f"{name} {record.counts.get('done', 0)} videos" + (f" ({len(failed)} failed)" if failed else ""))
    return "; ".join(said) + "."


def _hidden(workspace: Workspace, experiment: Experiment, run: str | None) -> Answer:
    plain = as_the_run(experiment)
    by = f" by {experiment.guide_name}" if experiment.guide_name not in (None, plain.kind) else ""
    share = "" if plain.share == 1 else f"; scores choose {plain.share:.0%} of them, chance the rest"
    if run is None:
        share += ". There is no run yet: these are the defaults"
    picture = None
    try:
        clips = Clips(workspace)
        sheet = figures.run_sheet(clips, experiment, find_row(clips, None, experiment.guide_name))
        picture = Picture(figures.image_bytes(figures.draw_sheet(sheet)), sheet.title)
    except UserError as error:
        share += f". No picture: {error}"
    words = hidden_in_words(experiment, plain)
    return Answer("What was hidden?", f"{plain.ratio:.0%} of the patches: {plain.kind}{by}", words + share, (), picture)


def _object(found: dict[str, Any], experiment: Experiment) -> Answer:
    question, ours, chance = "Did it find the object?", found.get("mask_iou"), found.get("mask_iou_random")
    if ours is None or chance is None:
        return Answer(
            question,
            "Not known here",
            "Where the object is, these videos do not say. tgmae inspect sorts "
            "them by CLIP score and by how flat their maps are: the worst come first.",
        )
    verdict = "Yes" if ours > 2 * chance else "Hardly" if ours > chance else "No"
    bars = [Bar("text mask", ours, f"{ours:.2f}"), Bar("random mask", chance, f"{chance:.2f}")]
    detail = "Mean overlap (IoU) with the named object, as many patches taken as it covers."
    if "object_masked" in found:
        detail += (
            f" At ratio {experiment.mask.ratio:g}, top-k alone hides {found['object_masked']:.0%} of it, a random "
            f"mask {found['object_masked_random']:.0%}."
        )
    return Answer(question, f"{verdict}: overlap {ours:.2f}", detail, bars)


def _learned(bars: list[dict[str, Any]]) -> Answer:
    question = "Did the model learn?"
    if not bars:
        return Answer(question, "Not measured yet", "tgmae probe, finetune or retrieve measure a run.")
    first = next((each for each in bars if each["others"] and each["title"].endswith("top-1")), bars[0])
    ours, others = first["ours"], dict(first["others"])
    floor = max(others.values(), default=0.0)
    sure = not first["tested"] or wilson(ours, first["tested"])[0] > floor
    verdict = "Yes" if ours > floor and sure else "Not clearly" if ours > floor else "No"
    detail = f"On {first['tested']} test videos. " if first["tested"] else ""
    if first["tested"]:
        low, high = wilson(ours, first["tested"])
        detail += f"95 % interval {low:.2f} to {high:.2f}."
    shown_bars = [
        Bar("this run", ours, f"{ours:.2f}"),
        *(Bar(name, value, f"{value:.2f}") for name, value in others.items()),
    ]
    return Answer(question, f"{verdict}: {first['title'].lower()} {ours:.2f}", detail, shown_bars)


def _against(bars: list[dict[str, Any]], found: dict[str, Any]) -> Answer:
    names = {name for each in bars for name, _ in each["others"]}
    said = [text for name, text in (("untrained", "the same model untrained"), ("chance", "chance")) if name in names]
    if found.get("mask_iou_random") is not None:
        said.append("a random mask of as many patches")
    if found.get("reconstruction_zero") is not None:
        said.append("predicting zero for every hidden pixel")
    text = ", ".join(said)
    detail = (
        ""
        if not said
        else "Everything here stands next to what costs nothing. Another run of yours is a better "
        "rival: tgmae table puts runs side by side."
    )
    return Answer("Compared with what?", (text[0].upper() + text[1:]) if text else "Nothing yet", detail)


MEASURED = {  # in what the demo measures -> its title, and what it is compared with
    "mask_iou": ("mean IoU of the text mask with the named object, as many patches as it covers",
                 {"random mask": "mask_iou_random"}),
    "object_masked": ("share of the named object's patches that top-k alone hides at the run's ratio",
                      {"random mask": "object_masked_random"}),
    "motion": ("how it moves: linear probe, top-1", {"untrained": "motion_untrained", "chance": "motion_chance"}),
    "reconstruction": ("reconstruction error of test videos", {"predicting zero": "reconstruction_zero"}),
}  # fmt: skip


def _lines(found: dict[str, Any], bars: list[dict[str, Any]]) -> list[Line]:
    measured = {
        key: Line(title, _number(found[key]), _named([(what, found[other]) for what, other in others.items()]))
        for key, (title, others) in MEASURED.items()
        if found.get(key) is not None
    }
    masks = [measured.pop(key) for key in ("mask_iou", "object_masked") if key in measured]
    return [*masks, *(Line(bar["title"], _number(bar["ours"]), _named(bar["others"])) for bar in bars),
            *measured.values()]  # fmt: skip


def _named(others: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in others) or "–"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _confusion(workspace: Workspace, run: str | None) -> list[Table]:
    labels = {}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # numbers then
        labels = dict(enumerate(json.loads((workspace.manifest / "classes.json").read_bytes())["classes"]))
    found = run_views.confusion(workspace, run, labels) if run else None
    if found is None or len(found["names"]) > 12:
        return []
    rows = [
        [name, *(str(count or "") for count in counts)]
        for name, counts in zip(found["names"], found["counts"], strict=True)
    ]
    return [Table(f"Who was taken for whom, by {found['source']}", ["true class", *found["names"]], rows)]


def _pictures(workspace: Workspace, experiment: Experiment, run: str | None) -> list[Picture]:
    made = []
    log = run_views.curves(workspace.run(run)).get("loss") if run else None
    if log:
        figure = figures.line_figure(
            {name: points for name, points in log["series"].items() if name in CURVES}, title=f"loss of {run}"
        )
        made.append(Picture(figures.image_bytes(figure), "Loss of pretraining by update."))
    clips = Clips(workspace)
    try:
        first = find_row(clips, None, experiment.guide_name)
        if run:
            sheet = figures.reconstruction_sheet(clips, run, first)
            made.append(Picture(figures.image_bytes(figures.draw_sheet(sheet)), f"{sheet.title}: {sheet.note}."))
    except UserError:
        first = 0
    for row in _of_different_classes(clips):
        try:
            sheet = figures.run_sheet(clips, experiment, row)
        except UserError:
            continue
        made.append(Picture(figures.image_bytes(figures.draw_sheet(sheet)), f"{sheet.title}: {sheet.note}."))
    return made


def _of_different_classes(clips: Clips) -> list[int]:
    """PICTURES rows: one video of each class first."""
    try:
        labels = clips.opened(None).column("label")
    except UserError:
        return []
    seen: dict[int, int] = {}
    order = []
    for row, label in enumerate(map(int, labels)):
        seen[label] = seen.get(label, -1) + 1
        order.append((seen[label], row))
    return [row for _, row in sorted(order)[:PICTURES]]
