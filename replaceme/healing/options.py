"""What ``heal`` can be told: keywords of a function, keys of a file, options of a command."""

from __future__ import annotations

from typing import Self

from pydantic import Field, ValidationError, model_validator

from replaceme.chat import USUAL_DAY, Day
from replaceme.healing.settings import HealSettings, Training
from replaceme.options import Dataset, ModelName, OutFolder


class HealOptions(Training):
    """One healed checkpoint: of which, toward which model, where, and how."""

    checkpoint: ModelName = Field(description="folder of a checkpoint that was pruned here")
    teacher: ModelName = Field(
        description="the intact model: hub id, folder, GGUF file, or package:NAME/FILE.gguf"
    )
    revision: str | None = Field(None, description="revision of a teacher on the hub")
    out: OutFolder = Field(description="folder of the healed checkpoint")
    calibration: Dataset = Field("builtin:prose", description="file or hub data set to train on")
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split, or a part such as train[:1000]")
    calibration_revision: str | None = Field(None, description="revision of a hub data set")
    column: str = Field("text", description="column of the text")
    samples: int | None = Field(
        None, gt=0, description="sequences at most; not given: as many as the budget takes"
    )
    max_length: int = Field(256, gt=1, description="tokens of a sequence at most. Default of sft: 1024")
    device: str | None = Field(None, description="torch device; not given: the GPU where there is one")
    date: Day = Field(USUAL_DAY, description="the day that chat templates take for today")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    overwrite: bool = Field(False, description="replace what is at OUT")

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        try:
            assert self.settings
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    @property
    def settings(self) -> HealSettings:
        """The same as a suite says it."""
        return HealSettings(
            **{name: getattr(self, name) for name in Training.model_fields},
            dataset=self.calibration,
            subset=self.subset,
            split=self.split,
            revision=self.calibration_revision,
            column=self.column,
            samples=self.samples,
            max_length=self.max_length,
        )
