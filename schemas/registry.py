"""What an experiment can name, and where it lives: a line a thing, module:name, imported when it is used.

To add a captioner, a guide, a mask or a list format: write its file, and add its line here. The config, its error
messages, docs/config.md and the stages know it from here. Without a fork: module:ClassName (docs/captions.md,
docs/custom_guides.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from schemas.errors import choice_error


class Registry(Mapping[str, Any]):
    """Names of one kind of thing; registry[name] is the thing itself. Raises UserError for an unknown name."""

    def __init__(self, what: str, places: Mapping[str, str]) -> None:
        self._what, self._places = what, places

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self._places[self.known(name)].partition(":")
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def known(self, name: str) -> str:
        """The name itself. Raises UserError, with the nearest one, where it is none."""
        if name not in self._places:
            raise choice_error(self._what, name, self._places)
        return name

    def checked(self, name: str) -> str:
        """As known(), for a field of the config: raises ValueError."""
        if name not in self._places:
            raise ValueError(str(choice_error(self._what, name, self._places)))
        return name


FRAME_CAPTIONERS = Registry(  # (section of the config) -> pipeline.captioners.FrameCaptioner
    "source of captions from frames",
    {
        "blip2": "pipeline.captioners.blip2:Blip2Captioner",
        "blip": "pipeline.captioners.blip:BlipCaptioner",
        "lavis": "pipeline.captioners.lavis:LavisCaptioner",
    },
)
ROW_CAPTIONERS = Registry(  # (experiment, manifest) -> pipeline.captioners.RowSource
    "source of captions from rows",
    {
        "oracle": "pipeline.captioners.oracle:oracle_source",
        "llm": "pipeline.captioners.llm:llm_source",
        "file": "pipeline.captioners.file:file_source",
    },
)
GUIDES = Registry(  # (experiment) -> pipeline.guides.Recipe
    "guide",
    {
        "text": "pipeline.guides.text:text_recipe",
        "embeddings": "pipeline.guides.text:embeddings_recipe",
        "motion-vectors": "pipeline.guides.motion:motion_recipe",
        "optical-flow": "pipeline.guides.flow:optical_flow_recipe",
        "flow-magnitude": "pipeline.guides.flow:flow_magnitude_recipe",
    },
)
MASKS = Registry(  # train.masking.masks.Mask
    "mask",
    {
        "top-k": "train.masking.masks:TOP_K",
        "bottom-k": "train.masking.masks:BOTTOM_K",
        "tube": "train.masking.masks:TUBE",
        "random": "train.masking.masks:RANDOM",
        "motion-vectors": "train.masking.masks:MOTION_VECTORS",
        "motion-box": "train.masking.masks:MOTION_BOX",
        "optical-flow": "train.masking.masks:OPTICAL_FLOW",
    },
)
FORMATS = Registry(  # (pipeline.datasets.Source) -> pipeline.datasets.Listing
    "format",
    {
        "folder": "pipeline.datasets.folder:list_folder",
        "csv": "pipeline.datasets.csv:list_csv",
        "files": "pipeline.datasets.files:list_files",
        "ssv2": "pipeline.datasets.ssv2:list_ssv2",
        "kinetics": "pipeline.datasets.kinetics:list_kinetics",
        "videomae": "pipeline.datasets.videomae_lists:list_videomae",
        "ucf101": "pipeline.datasets.ucf101:list_ucf101",
        "hmdb51": "pipeline.datasets.hmdb51:list_hmdb51",
        "diving48": "pipeline.datasets.diving48:list_diving48",
        "epic55": "pipeline.datasets.epic:list_epic55",
        "epic100": "pipeline.datasets.epic:list_epic100",
    },
)
