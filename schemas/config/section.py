"""What every section of the config is made of: a frozen model that refuses unknown keys, and ranges of numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Unit = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Precision = Literal["float32", "bfloat16", "float16"]
AutoPrecision = Literal["auto", Precision]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
