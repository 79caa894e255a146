"""Clips, captions, score maps and masks as a FiftyOne dataset, in its JSON layout: FiftyOne itself is not needed.

    fiftyone.Dataset.from_dir(OUT, dataset_type=fiftyone.types.FiftyOneDataset)

    OUT/metadata.json        name, media type, what the values of a mask mean
    OUT/samples.json         a sample a video: label, split (a tag), captions, what failed
    OUT/data/KEY.mp4         the stored clips
    OUT/frames/KEY.json      the heat map and the mask of each frame
    OUT/maps/KEY/, OUT/masks/KEY/   a picture a scored frame, one pixel a patch

Paths of pictures are absolute, for FiftyOne resolves no others within frames: write the export where it is to stay.
A mask hides the best-scored patches of the whole frame at the run's ratio; the trainer's own are of a crop
(`tgmae inspect` shows those).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schemas.atomic import write_bytes
from schemas.errors import UserError
from schemas.foreign_text import shown
from schemas.progress import Progress
from schemas.shards import ClipMeta
from schemas.tables import CAPTIONS, read_table
from schemas.workspace import Workspace
from tgmae.inspector.drawn_clips import Clips, experiment_of, run_names
from train.data.augment import map_numbers
from train.data.reading import Guidance
from train.masking.masks import hidden_per_slice, top_k

HIDDEN = 255  # in a picture of a mask; FiftyOne calls it "hidden"
Fields = dict[str, Any]


def export_fiftyone(workspace: Workspace, out: Path, *, guide: str | None = None, most: int | None = None) -> int:
    """Writes the dataset and returns how many videos it has. guide: a folder under guides/; None: the run's.

    Errors: UserError for a folder that is not empty, for clips or a guide that are not there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: choose another")
    clips, names = Clips(workspace), run_names(workspace)
    videos, experiment = clips.opened(None), experiment_of(workspace, names[0] if names else None)
    guide = guide or _default_guide(workspace, experiment.guide_name)
    if guide is not None:
        clips.opened(guide)  # what is wrong with it is said before anything is written
    said = _captions(workspace)
    count = len(videos) if most is None else min(most, len(videos))
    samples = []
    with Progress("fiftyone", count) as progress:
        for row in range(count):
            meta, mp4 = clips.meta(row)
            key = videos.key(row)
            _put(out / "data" / f"{key}.mp4", mp4)
            frames = dict(_frames(clips, row, guide, meta, out.resolve(), experiment.mask.ratio)) if guide else {}
            _put(out / "frames" / f"{key}.json", _json({"frames": frames}))
            samples.append(_sample(key, meta, said.get(key, {})))
            progress.advance()
    targets = {str(HIDDEN): "hidden"}
    about = {"name": f"tgmae-{workspace.root.resolve().name}", "media_type": "video",
             "info": {"workspace": str(workspace.root.resolve()), "guide": guide, "ratio": experiment.mask.ratio,
                      "default_mask_targets": targets}}  # fmt: skip
    write_bytes(out / "samples.json", _json({"samples": samples}))
    write_bytes(out / "metadata.json", _json(about))  # last: without it the export is not whole
    return count


def _default_guide(workspace: Workspace, wanted: str | None) -> str | None:
    there = sorted(path.parent.name for path in (workspace.root / "guides").glob("[!.]*/stage.json"))
    ranked = [name for name in there if not name.startswith("embeddings-") and name != "optical-flow"]
    return wanted if wanted in ranked else ranked[0] if ranked else None


def _captions(workspace: Workspace) -> dict[str, dict[str, list[str]]]:
    """By key and caption set."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted((workspace.root / "captions").glob("[!.]*/stage.json")):
        for row in read_table(path.with_name("captions.parquet"), CAPTIONS).to_pylist():
            found.setdefault(row["key"], {}).setdefault(path.parent.name, []).append(row["text"])
    return found


def _sample(key: str, meta: ClipMeta, said: dict[str, list[str]]) -> Fields:
    """One video. Texts are untrusted; a field's name is letters, digits and underscores."""
    sample: Fields = {"filepath": f"data/{key}.mp4", "tags": [meta.split] if meta.split else [], "metadata": None,
                      "frames": f"frames/{key}.json", "video_id": meta.video_id, "key": key}  # fmt: skip
    if meta.label_text is not None or meta.label is not None:
        sample["label"] = _classification(shown(meta.label_text if meta.label_text is not None else meta.label))
    for name, texts in said.items():
        field = "captions_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
        sample[field] = {"_cls": "Classifications", "classifications": [_classification(shown(text)) for text in texts]}
    return sample


def _classification(text: str) -> Fields:
    return {"_cls": "Classification", "tags": [], "label": text}


def _frames(clips: Clips, row: int, guide: str, meta: ClipMeta, out: Path,
            ratio: float) -> Iterator[tuple[str, Fields]]:  # fmt: skip
    """(number from 1, labels) of each frame: the nearest map of its first caption, and the mask of it."""
    try:
        found: Guidance = clips.guidance(guide, row, meta)
    except UserError:  # nothing for this video
        return
    stored_FHW, key = found.stored()[0], found.place.key
    hidden_FHW = top_k(stored_FHW, hidden_per_slice(ratio, stored_FHW[0].size))
    for number, (scores_HW, hidden_HW) in enumerate(zip(stored_FHW, hidden_FHW, strict=True)):
        _put(out / "maps" / key / f"{number:06d}.png", _png(scores_HW))
        _put(out / "masks" / key / f"{number:06d}.png", _png(np.where(hidden_HW, np.uint8(HIDDEN), np.uint8(0))))
    nearest = map_numbers(np.arange(meta.frames), frame_stride=found.meta.frame_stride, maps=len(stored_FHW))
    for frame, number in enumerate(nearest.tolist(), 1):
        name = f"{key}/{number:06d}.png"
        yield (
            str(frame),
            {
                "frame_number": frame,
                "scores": {"_cls": "Heatmap", "tags": [], "map_path": str(out / "maps" / name), "range": [0.0, 255.0]},
                "mask": {"_cls": "Segmentation", "tags": [], "mask_path": str(out / "masks" / name)},
            },
        )


def _put(path: Path, data: bytes) -> None:
    """Thousands of small files: only the last one of an export is synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _png(image_HW: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HW)).save(buffer, "PNG")
    return buffer.getvalue()


def _json(value: Fields) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
