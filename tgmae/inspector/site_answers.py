"""What the inspector's pages ask for once they are there: pictures, videos, maps, masks, curves, events."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from schemas.errors import UserError
from schemas.events import FILE, read_since
from schemas.foreign_text import shown
from schemas.workspace import Workspace
from tgmae.demo.clip_views import token_grid
from tgmae.inspector import catalogue_query as query
from tgmae.inspector import frame_pictures, run_views
from tgmae.inspector.catalogue import stage_folders
from tgmae.inspector.drawn_clips import Clips, Wanted, as_the_run, experiment_of, hidden_in_words, run_names, wanted_of
from tgmae.inspector.index_keeper import Keeper
from tgmae.inspector.known_objects import object_of, what_stands_out
from tgmae.runs.inventory import INNER
from train.data.augment import Crop
from train.pictures import reconstruction_picture
from train.reconstructions import STATISTICS, centre_attention, load_checkpoint, reconstruct

MOST_MAP = 4_000_000  # bytes of a video's map that are sent; longer ones are thinned
MOST_FRAMES = 64  # of a strip
TAIL = 400_000  # bytes of the event log that a page gets when it begins
KEPT = 256  # pictures kept in memory
BINS = 32


@dataclass(frozen=True)
class Site:
    """What all pages share."""

    workspace: Workspace
    clips: Clips
    keeper: Keeper

    def stage_folders(self) -> list[Path]:
        runs = sorted(path for path in (self.workspace.root / "runs").glob("[!.]*") if path.is_dir())
        inner = [run / stage for run in runs for stage in ("", *INNER)]
        return [*stage_folders(self.workspace), *(path for path in inner if path.is_dir())]


class Answers:
    def __init__(self, site: Site) -> None:
        self.site = site
        self._pictures = functools.lru_cache(KEPT)(self._picture)
        self._models = functools.lru_cache(4)(load_checkpoint)

    def routes(self) -> list[Route]:
        answers: list[tuple[str, Callable[[Request], Response]]] = [
            ("/poster/{key}", self.poster), ("/clip/{key}.mp4", self.clip), ("/strip/{key}", self.strip),
            ("/api/map/{key}", self.map), ("/api/draw/{key}", self.draw), ("/api/curves/{name}", self.curves),
            ("/reconstruction/{name}/{key}", self.reconstruction), ("/api/events", self.events),
            ("/api/state", self.state),
        ]  # fmt: skip
        return [Route(path, answer, methods=["GET"]) for path, answer in answers]

    def _row(self, request: Request) -> int:
        """The clip's row in the clips' index."""
        with closing(self.site.keeper.base()) as base:
            found = query.video(base, request.path_params["key"])
        if found is None or found["clip"] is None:
            raise HTTPException(404, "there is no clip of this video")
        return int(found["clip"])

    def _experiment(self, request: Request) -> Any:
        names, given = run_names(self.site.workspace), request.query_params.get("run")
        return experiment_of(self.site.workspace, given if given in names else names[0] if names else None)

    def _guide(self, request: Request) -> str | None:
        with closing(self.site.keeper.base()) as base:
            names = [name for name, _ in query.choices(base).guides]
        given = request.query_params.get("guide", "")
        if given and given not in names:
            raise HTTPException(404, "there is no such guide")
        return given or None

    def poster(self, request: Request) -> Response:
        show = request.query_params.get("show", "frame")
        return _image(self._pictures(self._row(request), show, self._guide(request), self._experiment(request)))

    def _picture(self, row: int, show: str, guide: str | None, experiment: Any) -> bytes:
        if show not in ("map", "mask") or (show == "map" and guide is None):
            return frame_pictures.jpeg(frame_pictures.poster(*self.site.clips.meta(row)))
        plain = as_the_run(experiment)
        wanted = Wanted(plain.kind, plain.ratio, 1.0 if plain.kind == "top-k" else plain.share, "centre", plain.seed,
                        plain.epoch, entry=0)  # fmt: skip
        if show == "map":  # of any guide: the mask is not shown
            wanted = Wanted("random", plain.ratio, 1.0, "centre", entry=0)
        elif guide != experiment.guide_name and plain.kind != "optical-flow":
            wanted = Wanted("top-k" if guide != "optical-flow" else "optical-flow", plain.ratio, 1.0, "centre", entry=0)
        try:
            drawn = self.site.clips.draw(experiment, row, guide, wanted)
        except UserError:
            return frame_pictures.jpeg(frame_pictures.poster(*self.site.clips.meta(row)))
        site = self.site
        picture = frame_pictures.slice_picture(site.clips, experiment, row, drawn, show, site.keeper.truth)
        return frame_pictures.jpeg(picture)

    def clip(self, request: Request) -> Response:
        """The stored video, or the range of it that is asked for, as browsers need it to seek."""
        _, mp4 = self.site.clips.meta(self._row(request))
        return ranged(mp4, request.headers.get("range"), "video/mp4")

    def map(self, request: Request) -> Response:
        """A video's whole map: the stored bytes [F, H, W] with what they mean, and each frame's scores in short."""
        row, guide = self._row(request), self._guide(request)
        if guide is None:
            raise HTTPException(404, "name a guide")
        meta, _ = self.site.clips.meta(row)
        found = self.site.clips.guidance(guide, row, meta)
        entry = min(query.whole(request.query_params, "entry") or 0, len(found.meta.scale) - 1)
        stored_FHW = found.stored()[entry]
        every = max(-(-stored_FHW.size // MOST_MAP), 1)
        kept_FHW = stored_FHW[::every]
        flat = kept_FHW.reshape(len(kept_FHW), -1)
        scale, offset = found.meta.scale[entry], found.meta.offset[entry]
        return JSONResponse({
            "shape": kept_FHW.shape, "frame_stride": found.meta.frame_stride * every, "fps": meta.fps,
            "frames": meta.frames, "width": meta.width, "height": meta.height, "scale": scale, "offset": offset,
            "bytes": base64.b64encode(np.ascontiguousarray(kept_FHW).tobytes()).decode(),
            "best": (flat.max(1) * scale + offset).round(4).tolist(),
            "mean": (flat.mean(1) * scale + offset).round(4).tolist(),
            "histogram": np.histogram(kept_FHW, BINS, (0, 256))[0].tolist(),
            "captions": [shown(text) for text in found.meta.captions], "entries": len(found.meta.scale),
        })  # fmt: skip

    def draw(self, request: Request) -> Response:
        """A clip's mask as the trainer draws it, with the scores that it ranks."""
        row, guide, experiment = self._row(request), self._guide(request), self._experiment(request)
        wanted = wanted_of(request.query_params, experiment)
        drawn = self.site.clips.draw(experiment, row, guide, wanted)
        crop, scores = drawn.crop, drawn.scores_THW
        object_THW = object_of(drawn, self.site.keeper.truth, token_grid(experiment))
        return JSONResponse({
            "frames": drawn.frames_T.tolist(), "tubelet": experiment.model.tubelet, "shape": drawn.hidden_THW.shape,
            "hidden": _bits(drawn.hidden_THW), "object": None if object_THW is None else _bits(object_THW),
            "why": [shown(line) for line in what_stands_out(drawn, object_THW, self.site.keeper.truth)],
            "scores": None if scores is None else scores.round(2).reshape(-1).tolist(),
            "crop": [crop.left, crop.top, crop.width, crop.height, int(crop.flip)],
            "frame": [crop.frame_width, crop.frame_height], "entry": drawn.entry,
            "captions": [shown(text) for text in drawn.captions], "words": hidden_in_words(experiment, wanted),
            "kind": wanted.kind, "size": frame_pictures.shown_size(experiment),
        })  # fmt: skip

    def strip(self, request: Request) -> Response:
        row, given = self._row(request), request.query_params
        meta, _ = self.site.clips.meta(row)
        try:
            numbers = [int(each) for each in given.get("frames", "").split(",")][:MOST_FRAMES]
            left, top, width, height, flip = map(int, given.get("crop", "").split(","))
        except ValueError:
            raise HTTPException(422, "frames and crop are whole numbers") from None
        inside = 0 <= left <= meta.width - width and 0 <= top <= meta.height - height and width > 0 and height > 0
        if not inside or not all(0 <= number < meta.frames for number in numbers):
            raise HTTPException(422, "the frames or the crop are not within the video")
        crop = Crop(left, top, width, height, meta.width, meta.height, bool(flip))
        strip = frame_pictures.strip(self.site.clips, self._experiment(request), row, np.asarray(numbers), crop)
        return _image(frame_pictures.jpeg(strip, 92))

    def curves(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in run_names(self.site.workspace):
            raise HTTPException(404, "there is no such run")
        folder = self.site.workspace.run(name)
        return JSONResponse({"pretrain": run_views.curves(folder), "finetune": run_views.curves(folder / "finetune")})

    def reconstruction(self, request: Request) -> Response:
        name, given, workspace = request.path_params["name"], request.query_params, self.site.workspace
        if name not in run_names(workspace):
            raise HTTPException(404, "there is no such run")
        statistics = given.get("statistics", "neighbours")
        if statistics not in STATISTICS:
            raise HTTPException(422, f"statistics are {' or '.join(STATISTICS)}")
        experiment, model = self._models(workspace.run(name), given.get("weights", "model"))
        experiment = experiment.model_copy(update={"workspace": str(workspace.root)})
        row, guide, plain = self._row(request), experiment.guide_name, as_the_run(experiment)
        wanted = Wanted(plain.kind, plain.ratio, plain.share, "centre", plain.seed, plain.epoch)
        drawn = self.site.clips.draw(experiment, row, guide, wanted)
        clip_THWC = frame_pictures.model_clip(self.site.clips, experiment, row, drawn)
        made = reconstruct(model, clip_THWC, drawn.hidden_THW, norm=experiment.objective.norm_pixels,
                           statistics="true" if statistics == "true" else "neighbours")  # fmt: skip
        picture = reconstruction_picture(
            clip_THWC.numpy(), drawn.hidden_THW, made.clip_THWC, centre_attention(model.encoder, clip_THWC), size=96
        )
        return _image(frame_pictures.jpeg(picture, 92), {"X-Error": f"{made.error:.4f}"})

    def events(self, request: Request) -> Response:
        return JSONResponse(
            read_since(self.site.workspace.root / FILE, query.whole(request.query_params, "after") or 0, tail=TAIL)
        )

    def state(self, request: Request) -> Response:
        keeper = self.site.keeper
        ready = keeper.ready.is_set()
        done, total = keeper.measured() if ready else (0, 0)
        return JSONResponse({"ready": ready, "busy": shown(keeper.busy), "trouble": shown(keeper.trouble),
                             "measured": done, "maps": total})  # fmt: skip


def _bits(mask: Any) -> str:
    return "".join("1" if each else "0" for each in mask.reshape(-1))


def _image(data: bytes, headers: dict[str, str] | None = None) -> Response:
    mark = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    return Response(data, headers={"ETag": mark, "Cache-Control": "private, max-age=60", **(headers or {})},
                    media_type="image/jpeg")  # fmt: skip


def ranged(data: bytes, asked: str | None, kind: str) -> Response:
    """The bytes, or one range of them (RFC 9110, section 14); several ranges are answered with all."""
    headers = {"Accept-Ranges": "bytes", "Cache-Control": "private, max-age=60"}
    if not asked or not asked.startswith("bytes=") or "," in asked:
        return Response(data, headers=headers, media_type=kind)
    first, dash, last = asked.removeprefix("bytes=").strip().partition("-")
    if not dash or not (first + last).isascii() or not all(each.isdigit() for each in (first, last) if each):
        return Response(data, headers=headers, media_type=kind)
    if first:
        start, end = int(first), min(int(last), len(data) - 1) if last else len(data) - 1
    else:  # the last so many bytes
        start, end = max(len(data) - int(last or 0), 0), len(data) - 1
    if start > end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, headers=headers, media_type=kind)
