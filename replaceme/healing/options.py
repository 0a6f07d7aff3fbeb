"""What ``heal`` can be told: keywords of a function, keys of a file, options of a command."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from replaceme.calibration import CalibrationData
from replaceme.chat import USUAL_DAY, Day
from replaceme.healing.settings import HealSettings, Training
from replaceme.options import folder_of
from replaceme.settings import resolve_name


class HealOptions(Training):
    """One healed checkpoint: of which, toward which model, where, and how."""

    checkpoint: str = Field(min_length=1, description="folder of a checkpoint that was pruned here")
    teacher: str = Field(
        min_length=1,
        description="the intact model: hub id, folder, GGUF file, or package:NAME/FILE.gguf",
    )
    revision: str | None = Field(None, description="revision of a teacher on the hub")
    out: Path = Field(description="folder of the healed checkpoint")
    calibration: str = Field("builtin:prose", description="file or hub data set to train on")
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split, or a part such as train[:1000]")
    calibration_revision: str | None = Field(None, description="revision of a hub data set")
    column: str = Field("text", description="column of the text")
    samples: int | None = Field(
        None, gt=0, description="sequences at most; not given: as many as the budget takes"
    )
    max_length: int = Field(256, gt=1, description="tokens of a sequence at most")
    device: str | None = Field(None, description="torch device; not given: the GPU where there is one")
    date: Day = Field(USUAL_DAY, description="the day that chat templates take for today")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    overwrite: bool = Field(False, description="replace what is at OUT")

    @field_validator("checkpoint", "teacher", "calibration")
    @classmethod
    def _from_file(cls, name: str, info: ValidationInfo) -> str:
        folder = folder_of(info)
        return name if folder is None else resolve_name(name, folder)

    @field_validator("out")
    @classmethod
    def _out_from_file(cls, out: Path, info: ValidationInfo) -> Path:
        return (folder_of(info) or Path()) / out.expanduser()

    @field_validator("calibration")
    @classmethod
    def _is_there(cls, dataset: str) -> str:
        CalibrationData(dataset=dataset).local_file()
        return dataset

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
