"""Published tables as data: the files ``results/published/*.yaml``, with values as printed."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.shipped import shipped_folder
from replaceme.io import yaml_source

UNKNOWN = "-"  # what a table does not print


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedColumn(_Part):
    """A column; its key is as in the leaderboard: ``task:NAME``, ``ppl:NAME``, ``average``, ``rp``."""

    header: str
    unit: str | None = Field(None, description="of its numbers; null: the table's")
    metric: str | None = Field(None, description="lm-eval's key; null: the source does not say")
    num_fewshot: int | None = Field(None, ge=0, description="null: the source does not say")
    average: bool = Field(True, description="whether a task counts in the printed average")


class PublishedRow(_Part):
    """A row; ``values`` are as printed, in the order of the columns, ``-`` where nothing is."""

    model: str
    method: str
    layers: int | None = Field(None, ge=0, description="removed; 0: the baseline; null: not by layers")
    ratio: str | None = Field(None, description="compression ratio as printed")
    detail: str | None = None
    training_free: bool | None = None
    values: str


class PrintedBaseline(_Part):
    """The baseline's average where another table prints it."""

    average: str
    source: str


class Published(_Part):
    """A table of a publication, or a choice of such tables to be shown as one (``include``)."""

    title: str
    source: str = Field("", description="the publication and its version, and the table's number")
    unit: str = Field("", description="of averages and task scores: %, or nothing for fractions of 1")
    average: str | None = Field(None, description="what the average is over, and how it was scored")
    detail: str | None = Field(None, description="header of the rows' detail")
    notes: list[str] = []
    columns: dict[str, PublishedColumn] = {}
    baselines: dict[str, PrintedBaseline] = Field(default={}, description="by model")
    rows: list[PublishedRow] = []
    include: list[str] = []

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.rows) == bool(self.include):
            raise ValueError("give either 'rows' or 'include'")
        if self.rows and not (self.source and self.columns):
            raise ValueError("rows need a 'source' and 'columns'")
        for row in self.rows:
            numbers = row.values.split()
            if len(numbers) != len(self.columns):
                raise ValueError(f"{row.method}: {len(numbers)} values for {len(self.columns)} columns")
            if bad := [n for n in numbers if n != UNKNOWN and not re.fullmatch(r"\d*\.?\d+", n)]:
                raise ValueError(f"{row.method}: {bad[0]!r} is no number")
        return self

    def printed(self, row: PublishedRow) -> dict[str, str]:
        """Column → what is printed, without what is not."""
        pairs = zip(self.columns, row.values.split(), strict=True)
        return {key: text for key, text in pairs if text != UNKNOWN}

    def averaged(self, row: PublishedRow) -> list[str]:
        """The printed scores of the tasks that count in the average; empty if one is missing."""
        printed = self.printed(row)
        keys = [k for k, column in self.columns.items() if k.startswith("task:") and column.average]
        return [printed[key] for key in keys] if set(keys) <= set(printed) else []


def folder() -> Path:
    """Where the tables lie."""
    return shipped_folder("published_tables", "results/published")


def names() -> list[str]:
    """The tables that can be named."""

    def numbered(name: str) -> list[tuple[int, str]]:
        return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]

    return sorted((path.stem for path in folder().glob("*.yaml")), key=numbered)


@cache
def load(name: str) -> Published:
    """A table by its name.

    Raises:
        InputError: there is none of that name, or the file is not what it should be.
    """
    return yaml_source.load(folder() / f"{name}.yaml", Published)
