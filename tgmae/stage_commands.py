"""The commands of the stages, in their order: each brings one stage up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from schemas.registry import GUIDES
from tgmae.options import Folder, Given, experiment_command, option

Captions = Annotated[str | None, option("captions", "The caption set, such as blip2 or blip2+llm.")]
Name = Annotated[str | None, option("name", "The name of the run.")]
BUILT, TRAINED, MEASURED = "Build", "Train", "Measure"  # panels of --help


def register(app: typer.Typer) -> None:
    for panel, command, example in (
        (BUILT, index, "tgmae index /data/ssv2 --format ssv2 --annotations /data/ssv2/labels --out work/ssv2"),
        (BUILT, caption, "tgmae caption work/ssv2 --source blip2 --ray-address auto"),
        (BUILT, shard, "tgmae shard work/ssv2 --set shard.short_side=240"),
        (BUILT, features, "tgmae features work/ssv2 --set text.cache=true"),
        (BUILT, guide, "tgmae guide work/ssv2 --captions oracle"),
        (TRAINED, pretrain, "tgmae pretrain work/ssv2 --set clip.stride=2 --set pretrain.processes=8"),
        (MEASURED, finetune, "tgmae finetune work/ssv2 --name pretrain"),
        (MEASURED, probe, "tgmae probe work/ssv2 --set probe.views=4"),
        (MEASURED, retrieve, "tgmae retrieve work/ssv2"),
    ):
        app.command(rich_help_panel=panel, epilog=f"Example: {example}")(command)


@experiment_command("max_failures", "rebuild")
def index(
    given: Given,
    data: Annotated[Path, typer.Argument(help="The folder of the videos.")],
    out: Annotated[Path, typer.Option("--out", help="The workspace to make.")],
    format: Annotated[
        str | None,
        option("index.format", "folder, csv, files, ssv2, kinetics, ucf101, ... (docs/datasets.md)."),
    ] = None,
    list: Annotated[
        Path | None, option("index.list", "csv: path,label[,start,end,text,split]. epic55: what is for validation.")
    ] = None,
    annotations: Annotated[
        Path | None, option("index.annotations", "Folder of the dataset's own annotation files.")
    ] = None,
    split: Annotated[int | None, option("index.split", "Official split of ucf101 and hmdb51: 1, 2 or 3.")] = None,
) -> None:
    """Find the videos, probe each with a real decoder, write the manifest."""
    keys = {"workspace": out, "index__data": data, "index__format": format, "index__list": list}
    given.run("index", given.experiment(**keys, index__annotations=annotations, index__split=split))


@experiment_command("ray_address", "max_failures", "rebuild")
def caption(
    given: Given,
    workspace: Folder,
    source: Annotated[
        str | None,
        option("captions", "blip2, blip, lavis, oracle, llm, file; a class of your own as module:ClassName; or a mix: "
               "blip2+llm (docs/captions.md).", "--source"),
    ] = None,
) -> None:  # fmt: skip
    """Make a caption set: of keyframes by a model, on Ray; or of labels, descriptions, files, other sets."""
    given.run("caption", given.experiment(workspace=workspace, captions=source))


@experiment_command("ray_address", "max_failures", "rebuild")
def shard(given: Given, workspace: Folder) -> None:
    """Re-encode every video once for random access, into WebDataset tars."""
    given.run("shard", given.experiment(workspace=workspace))


@experiment_command("ray_address", "max_failures", "rebuild")
def features(given: Given, workspace: Folder) -> None:
    """Keep every patch's embedding, so that another caption set needs the text tower only (text.cache)."""
    given.run("features", given.experiment(workspace=workspace))


@experiment_command("ray_address", "max_failures", "rebuild")
def guide(
    given: Given,
    workspace: Folder,
    guide: Annotated[
        str | None,
        option("guide", "text, embeddings, motion-vectors, optical-flow, flow-magnitude; or a class of your own as "
               "module:ClassName (docs/custom_guides.md).", "--guide"),
    ] = None,
    captions: Captions = None,
    grid_stride: Annotated[
        int | None,
        option("text.grid_stride", "text: pixels from one patch to the next; below text.patch they overlap."),
    ] = None,
    crop_size: Annotated[
        int | None,
        option("text.crop_size", "text: pixels that the encoder is made for, below its own for speed."),
    ] = None,
) -> None:  # fmt: skip
    """Score every patch by captions, motion or a class of your own, into tars next to the clips', on Ray."""
    keys = {"workspace": workspace, "captions": captions, "text__grid_stride": grid_stride}
    experiment = given.experiment(**keys, text__crop_size=crop_size)
    if guide is not None and guide != "none" and ":" not in guide:
        GUIDES.known(guide)
    # Set past the check that the config's mask can use it: here only the guide is made.
    given.run("guide", experiment.model_copy(update={"guide": guide}) if guide else experiment)


@experiment_command("ray_address", "rebuild")
def pretrain(
    given: Given,
    workspace: Folder,
    captions: Captions = None,
    name: Name = None,
    init_from_hf: Annotated[
        Path | None, option("model.init", "Start from a transformers folder (or any of docs/weights.md).")
    ] = None,
) -> None:
    """Pretrain a video encoder from the shards, in processes of its own; on a Ray cluster, by Ray Train."""
    keys = {"workspace": workspace, "captions": captions, "name": name, "model__init": init_from_hf}
    given.run("pretrain", given.experiment(**keys))


@experiment_command("ray_address", "rebuild")
def finetune(given: Given, workspace: Folder, name: Name = None) -> None:
    """Fine-tune an encoder to classify and test it by several views of each video (docs/finetune.md)."""
    given.run("finetune", given.of_run(workspace, name))


@experiment_command("rebuild")
def probe(given: Given, workspace: Folder, captions: Captions = None, name: Name = None) -> None:
    """Classify by the frozen features of an encoder: linear probes and k-NN."""
    given.run("probe", given.of_run(workspace, name, captions=captions))


@experiment_command("rebuild")
def retrieve(given: Given, workspace: Folder, captions: Captions = None, name: Name = None) -> None:
    """Video-to-video retrieval by frozen features, and text-to-video where the encoder has a contrastive head."""
    given.run("retrieve", given.of_run(workspace, name, captions=captions))
