"""The inspector's site: its pages, and the application that serves them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from schemas.errors import UserError
from schemas.foreign_text import shown
from schemas.registry import MASKS
from schemas.stage import read_record
from tgmae.inspector import catalogue_query as query
from tgmae.inspector import run_views
from tgmae.inspector.drawn_clips import as_the_run, experiment_of, run_names, why_not
from tgmae.inspector.failure_advice import data_root, retry_command
from tgmae.inspector.site_answers import Answers, Site
from train.reconstructions import STATISTICS, checkpoints

STATIC = Path(__file__).with_name("static")
FAILURES = 100  # on a page


def _finalize(value: object) -> object:
    """Everything that a page shows may come from a stranger; what is markup comes from our own macros."""
    return value if hasattr(value, "__html__") else shown(value)


PAGES = Environment(loader=PackageLoader("tgmae.inspector", "templates"), autoescape=True, undefined=StrictUndefined,
                    trim_blocks=True, lstrip_blocks=True, finalize=_finalize)  # fmt: skip


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _words(text: str) -> str:
    return text.replace("_", " ")


PAGES.filters |= {"number": _number, "words": _words, "thousands": lambda n: f"{n:,}"}


class Pages:
    def __init__(self, site: Site) -> None:
        self.site = site

    def routes(self) -> list[Route]:
        pages: list[tuple[str, Callable[[Request], Response]]] = [
            ("/", self.browse), ("/video/{key}", self.video), ("/runs", self.runs), ("/run/{name}", self.run),
            ("/failures", self.failures), ("/activity", self.activity),
        ]  # fmt: skip
        return [Route(path, self._when_ready(page), methods=["GET"]) for path, page in pages]

    def _when_ready(self, page: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            if not self.site.keeper.ready.is_set():
                return self._page("indexing.html", request, "", busy=self.site.keeper.busy,
                                  trouble=self.site.keeper.trouble, status=503)  # fmt: skip
            return page(request)

        return answer

    def _page(self, template: str, request: Request, here: str, *, status: int = 200, **values: Any) -> Response:
        name = "/".join(self.site.workspace.root.resolve().parts[-2:]).lstrip("/")
        text = PAGES.get_template(template).render(
            here=here, path=request.url.path, workspace=name, root=str(self.site.workspace.root.resolve()), **values
        )
        return HTMLResponse(text, status)

    def browse(self, request: Request) -> Response:
        with closing(self.site.keeper.base()) as base:
            there = query.choices(base)
            asked = query.asked(request.query_params, there)
            total = query.count(base, asked)
            rows = query.videos(base, asked)
        kinds = dict(there.guides)
        done, of = self.site.keeper.measured()
        return self._page(
            "browse.html", request, "browse", asked=asked, there=there, rows=rows, total=total, done=done, of=of,
            pages=-(-total // query.PAGE), size=query.PAGE, sorts=query.SORTS, coverage=query.COVERAGE,
            kind=kinds.get(asked.guide, ""),
        )  # fmt: skip

    def video(self, request: Request) -> Response:
        workspace, given = self.site.workspace, request.query_params
        with closing(self.site.keeper.base()) as base:
            there = query.choices(base)
            asked = query.asked(given, there)
            row = query.video(base, request.path_params["key"])
            if row is None:
                raise HTTPException(404, "there is no such video")
            captions, maps = query.captions_of(base, row["id"]), query.maps_of(base, row["id"])
            failures = [(each, retry_command(workspace, each["folder"]))
                        for each in query.failures_of(base, row["id"])]  # fmt: skip
            at = query.whole(given, "at")
            before = after = None
            if at is not None:
                around = query.videos(base, asked, first=max(at - 1, 0), most=3 if at else 2)
                keys = [each["key"] for each in around]
                if row["key"] in keys:
                    place = keys.index(row["key"])
                    before = keys[place - 1] if place else None
                    after = keys[place + 1] if place + 1 < len(keys) else None
        names = run_names(workspace)
        run = given.get("run") if given.get("run") in names else (names[0] if names else None)
        experiment = experiment_of(workspace, run)
        shown_guides = [each for each in maps if each["maps"] and each["kind"] != "embeddings"]
        order = [experiment.guide_name, asked.guide]
        shown_guides.sort(key=lambda each: order.index(each["name"]) if each["name"] in order else len(order))
        return self._page(
            "video.html", request, "browse", row=row, captions=captions, maps=maps, failures=failures, asked=asked,
            at=at, before=before, after=after, guides=shown_guides, runs=names, run=run, experiment=experiment,
            plain=as_the_run(experiment), masks=MASKS, why_not=why_not, facts=self._facts(row),
        )  # fmt: skip

    def _facts(self, row: Any) -> list[tuple[str, str]]:
        facts = [("Name", row["video_id"]), ("Key", row["key"]), ("Label", row["label_text"] or row["label"] or "none"),
                 ("Split", row["split"] or "none")]  # fmt: skip
        if row["frames"]:
            shape = f"{row['width']} × {row['height']}, {row['frames']} frames, {row['fps']:.3g} fps"
            facts.append(("Source", f"{shape}, {row['duration']:.1f} s, {row['codec']}, {row['bytes'] / 1e3:,.0f} kB"))
        if row["clip"] is not None:
            try:
                meta, mp4 = self.site.clips.meta(row["clip"])
            except UserError as error:
                return [*facts, ("Stored", str(error))]
            stored = f"{meta.width} × {meta.height}, {meta.frames} frames, {meta.fps:.3g} fps, {len(mp4) / 1e3:,.0f} kB"
            facts.append(("Stored", stored + (f"; {meta.lost} frames lost" if meta.lost else "")))
        return facts

    def runs(self, request: Request) -> Response:
        found = [run_views.summary(self.site.workspace, name) for name in run_names(self.site.workspace)]
        tables = [(each, run_views.compared(each)) for each in found]
        return self._page("runs.html", request, "runs", runs=tables)

    def run(self, request: Request) -> Response:
        name, workspace = request.path_params["name"], self.site.workspace
        if name not in run_names(workspace):
            raise HTTPException(404, "there is no such run")
        about = run_views.summary(workspace, name)
        with closing(self.site.keeper.base()) as base:
            labels = dict(query.choices(base).labels)
            asked_key = request.query_params.get("neighbours", "")
            queries = run_views.queries(workspace, name)
            key = asked_key if asked_key in dict(queries) else (queries[0][0] if queries else "")
            near = run_views.neighbours(workspace, name, key) if key else []
            ids = [video_id for each in near for video_id in (each["video_id"], *each["neighbours"])]
            keys = query.keys_of(base, ids) if ids else {}
            examples = query.videos(base, query.Asked(coverage="clip", split="test"), most=6)
            examples = examples or query.videos(base, query.Asked(coverage="clip"), most=6)
        run_folder = workspace.run(name)
        return self._page(
            "run.html", request, "runs", about=about, bars=run_views.compared(about), near=near, keys=keys,
            queries=queries, chosen=key, labels=labels, confusion=run_views.confusion(workspace, name, labels),
            experiment=experiment_of(workspace, name), weights=["untrained", *checkpoints(run_folder)],
            statistics=STATISTICS, examples=examples,
        )  # fmt: skip

    def failures(self, request: Request) -> Response:
        given, workspace = request.query_params, self.site.workspace
        page = query.whole(given, "page") or 0
        with closing(self.site.keeper.base()) as base:
            kinds = "SELECT folder, error, count(*) AS count FROM failure GROUP BY folder, error ORDER BY count DESC"
            groups = base.execute(kinds).fetchall()
            where, values = "1", []
            for name in ("folder", "error"):
                if given.get(name):
                    where += f" AND failure.{name} = ?"
                    values.append(given[name])
            total = base.execute(f"SELECT count(*) FROM failure WHERE {where}", values).fetchone()[0]
            rows = base.execute(
                "SELECT failure.*, video.key, video.video_id, video.frames, video.width, video.height, video.codec, "
                "video.bytes, video.duration, video.clip FROM failure JOIN video ON video.id = failure.video WHERE "
                f"{where} ORDER BY failure.rowid LIMIT ? OFFSET ?", [*values, FAILURES, page * FAILURES],
            ).fetchall()  # fmt: skip
        shown_rows = [(row, retry_command(workspace, row["folder"])) for row in rows]
        return self._page("failures.html", request, "failures", rows=shown_rows, groups=groups, total=total, page=page,
                          pages=-(-total // FAILURES), folder=given.get("folder", ""), error=given.get("error", ""),
                          data=str(data_root(workspace) or "an unknown folder"))  # fmt: skip

    def activity(self, request: Request) -> Response:
        records = []
        for folder in self.site.stage_folders():
            try:
                record = read_record(folder)
            except UserError:
                record = None
            name = folder.relative_to(self.site.workspace.root).as_posix()
            records.append((name, record))
        return self._page("activity.html", request, "activity", records=records)


def application(site: Site) -> Starlette:
    """Without its guard (site_guard.py)."""

    def refused(request: Request, error: Exception) -> Response:
        text, status = (error.detail, error.status_code) if isinstance(error, HTTPException) else (str(error), 422)
        return PlainTextResponse(shown(text) + "\n", status)

    return Starlette(
        routes=[*Pages(site).routes(), *Answers(site).routes(), Mount("/static", StaticFiles(directory=STATIC))],
        exception_handlers={UserError: refused, HTTPException: refused},
    )
