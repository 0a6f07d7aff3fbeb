"""What ``generate`` can be told: options of the command, keys of its file."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from replaceme.calibration import GENERATED, CalibrationData, Generated, check_data, is_data_file
from replaceme.chat import USUAL_DAY, Day
from replaceme.errors import InputError
from replaceme.options import Dataset, ModelName, OutFolder


class GenerateOptions(Generated):
    """One text: which model writes it, where, and how."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName = Field(description="hub id, folder, GGUF file, or package:NAME/FILE.gguf")
    revision: str | None = Field(None, description="revision of a hub model")
    out: OutFolder = Field(description="file for the text, .jsonl")
    prompts: Dataset | None = Field(
        None, description="file or hub data set with prompts to answer; not given: there are none"
    )
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split, or a part such as train[:1000]")
    streaming: bool = Field(False, description="read a hub data set row by row, not all of it")
    prompts_revision: str | None = Field(None, description="revision of a hub data set")
    column: str = Field("text", description="column of the prompts")
    prompts_seed: int = Field(42, ge=0, description="of the choice of prompts")
    samples: int = Field(100_000, gt=0, description="prompts at most")
    max_length: int = Field(256, gt=1, description="tokens of a text at most, with those of its prompt")
    date: Day = Field(USUAL_DAY, description="the day that chat templates take for today")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    overwrite: bool = Field(False, description="replace the file OUT")

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if self.out.suffix != ".jsonl" or not is_data_file(self.out):
            raise ValueError(f"out: {self.out} does not end in .jsonl, as what is written does")
        try:
            check_data(self.data)
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def data(self) -> CalibrationData:
        """The same as a suite says it."""
        return CalibrationData(
            dataset=self.prompts or GENERATED,
            generated=Generated(**{name: getattr(self, name) for name in Generated.model_fields}),
            subset=self.subset,
            split=self.split,
            revision=self.prompts_revision,
            streaming=self.streaming,
            column=self.column,
            samples=self.samples,
            max_length=self.max_length,
            seed=self.prompts_seed,
        )
