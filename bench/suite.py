"""The suite file: what to prune, how to score it, how to serve it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bench.scoring.presets import PRESETS
from bench.serving.spec import ServeSettings
from replaceme import yaml_source
from replaceme.calibration import CalibrationData
from replaceme.errors import InputError
from replaceme.models import short_name
from replaceme.selection import Block, Selection, merge_adjacent
from replaceme.solvers import Solver, make_solver

Dtype = Literal["float32", "bfloat16", "float16"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(_Section):
    """A model to prune; a bare string means its id."""

    id: str = Field(
        min_length=1, description="hub id, local folder, GGUF file, or package:NAME/FILE.gguf"
    )
    revision: str | None = Field(None, description="revision of a hub model")
    dtype: Dtype | None = Field(
        None, description="dtype to calibrate and save in; null: the checkpoint's own"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @property
    def name(self) -> str:
        return short_name(self.id)


class SolverSpec(_Section):
    """A solver with its parameters and the label it has in tables; a bare string means its name."""

    label: str
    solver: Solver

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError("a solver is a name, or a mapping with name, its parameters, and as")
        parameters = {key: item for key, item in value.items() if key not in ("name", "as")}
        label = value.get("as", value["name"])
        if not isinstance(label, str) or not label:
            raise ValueError("as: the label of a solver must be a text")
        try:
            return {"label": label, "solver": make_solver(value["name"], **parameters)}
        except InputError as error:
            raise ValueError(str(error)) from None


def _possible_count(count: int) -> int:
    if count < 1:
        raise ValueError(f"{count} layers cannot be removed; the least is 1")
    return count


def _possible_blocks(blocks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    for start, end in blocks:
        if not 1 <= start < end:
            raise ValueError(
                f"[{start}, {end}] is no block: START is at least 1, and END, which is kept, is larger"
            )
    for block, following in pairwise(sorted(blocks)):
        if following[0] < block[1]:
            raise ValueError(f"the blocks {list(block)} and {list(following)} overlap")
    return blocks


Count = Annotated[int, AfterValidator(_possible_count)]
Blocks = Annotated[list[tuple[int, int]], AfterValidator(_possible_blocks)]
Selector = Literal["angular", "angular-mean", "perplexity"]


class PruneSpec(_Section):
    """Which variants to make: every layer count, or the given blocks, with every solver."""

    layers: list[Count] = Field(default=[], description="numbers of layers to remove")
    blocks: Blocks = Field(
        default=[],
        description="blocks to remove together instead, half-open: [[20, 28]] removes layers 20 to 27",
    )
    solvers: list[SolverSpec] = Field(min_length=1, description="how to compensate for them")
    selector: Selector = Field("angular", description="how the blocks are chosen")
    num_blocks: int = Field(1, gt=0, description="in how many blocks of the same size")
    calibration_dtype: Dtype | None = Field(
        None,
        description="dtype to run the model in while calibrating; null: the one it is saved in. float32 "
        "is faster than bfloat16 on a CPU without AMX",
    )
    compat: Literal["reference"] | None = Field(
        None, description="reference: do exactly as the published code does, padding and norms included"
    )
    batch_size: int = Field(8, gt=0, description="calibration sequences per forward")

    @property
    def selection(self) -> Selection:
        return Selection(self.selector, self.num_blocks)

    @property
    def given(self) -> tuple[Block, ...]:
        """The blocks to remove where they are not chosen."""
        return merge_adjacent(Block(*block) for block in self.blocks)

    @property
    def counts(self) -> list[int]:
        """Numbers of layers removed, one for each variant of a solver."""
        return self.layers or [sum(block.size for block in self.given)]

    @model_validator(mode="after")
    def _layers_or_blocks(self) -> Self:
        if bool(self.layers) == bool(self.blocks):
            raise ValueError("give either 'layers' or 'blocks'")
        if self.blocks and self.num_blocks > 1:
            raise ValueError("'num_blocks' belongs to 'layers'; list several blocks instead")
        for count in self.layers:
            if count % self.num_blocks:
                raise ValueError(
                    f"{count} layers cannot be removed in {self.num_blocks} blocks of the same size; "
                    f"allowed are multiples of {self.num_blocks}"
                )
        return self

    @field_validator("layers")
    @classmethod
    def _distinct(cls, layers: list[int]) -> list[int]:
        if len(set(layers)) < len(layers):
            raise ValueError("the same layer count stands twice, which would make duplicate cells")
        return layers

    @field_validator("solvers")
    @classmethod
    def _labelled(cls, solvers: list[SolverSpec]) -> list[SolverSpec]:
        labels = [spec.label for spec in solvers]
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(
                f"the label {sorted(twice)[0]!r} stands twice, which would make duplicate cells; "
                f"give one of them another with 'as: NAME'"
            )
        return solvers


class TaskSpec(_Section):
    """An lm-eval task; a bare string means its name."""

    task: str = Field(min_length=1, description="name of an lm-eval task")
    num_fewshot: int | None = Field(
        None, ge=0, description="examples in the prompt; null: the task's own"
    )
    metric: str | None = Field(
        None, description="the metric that counts; null: acc_norm, acc or exact_match, the first it has"
    )
    average: bool = Field(True, description="whether it counts in the average")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value


class ScoreSpec(_Section):
    """Quality: lm-eval tasks."""

    tasks: list[TaskSpec] = Field(min_length=1, description="task names or presets")
    include_path: list[Path] = Field(default=[], description="folders with lm-eval task YAMLs")
    limit: int | None = Field(None, gt=0, description="items of each task at most")
    method: Literal["one-pass", "per-variant"] = Field(
        "one-pass", description="per-variant: each checkpoint by itself, through lm-eval's own forward"
    )
    dtype: Dtype | None = Field(
        None,
        description="dtype to compute in; null: the checkpoint's, but float32 on a CPU without AMX",
    )
    batch_size: int = Field(16, gt=0, description="requests per forward of lm-eval")
    batch_tokens: int | None = Field(
        None, gt=0, description="tokens per forward in one pass; null: what is measured to be fastest"
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _presets(cls, tasks: Any) -> Any:
        if not isinstance(tasks, list):
            return tasks
        return [entry for task in tasks for entry in PRESETS.get(str(task), [task])]

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, tasks: list[TaskSpec]) -> list[TaskSpec]:
        names = [task.task for task in tasks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"the task {sorted(twice)[0]!r} stands twice")
        return tasks

    @field_validator("include_path", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("include_path")
    @classmethod
    def _from_suite(cls, paths: list[Path], info: ValidationInfo) -> list[Path]:
        folder = (info.context or {}).get("folder", Path())
        paths = [(folder / path.expanduser()).resolve() for path in paths]
        for path in paths:
            if not path.is_dir():
                raise ValueError(f"there is no folder {path}")
        return paths


class Suite(_Section):
    """A whole suite file."""

    name: str = Field(pattern=r"^\w[\w.-]*$", description="also the name of the default output folder")
    models: list[ModelSpec] = Field(min_length=1, description="models to prune")
    prune: PruneSpec
    calibration: CalibrationData = Field(default_factory=CalibrationData)
    score: ScoreSpec | None = Field(None, description="null: no quality is measured")
    serve: ServeSettings | None = Field(None, description="null: no latency and memory are measured")
    device: str | None = Field(None, description="torch device; null: the GPU where there is one")

    @field_validator("models")
    @classmethod
    def _from_suite(cls, models: list[ModelSpec], info: ValidationInfo) -> list[ModelSpec]:
        folder = (info.context or {}).get("folder", Path())
        models = [m.model_copy(update={"id": resolved(m.id, folder)}) for m in models]
        names = [model.name for model in models]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two models are named {sorted(twice)[0]!r}, which would make duplicate cells"
            )
        return models

    @field_validator("calibration")
    @classmethod
    def _calibration_path(cls, data: CalibrationData, info: ValidationInfo) -> CalibrationData:
        folder = (info.context or {}).get("folder", Path())
        data = data.model_copy(update={"dataset": resolved(data.dataset, folder)})
        try:
            data.local_file()
        except InputError as error:
            raise ValueError(str(error)) from None
        return data

    def limited(self, limit: int | None) -> Suite:
        """The same with so many items of each task at most; ``None`` changes nothing."""
        if limit is None or self.score is None:
            return self
        return self.model_copy(update={"score": self.score.model_copy(update={"limit": limit})})

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if self.score is None and self.serve is None:
            raise ValueError("the suite measures nothing; give it a 'score' or a 'serve' section")
        return self


def resolved(name: str, folder: Path) -> str:
    """The name of a model or data set; a path relative to ``folder`` is made absolute, others stay."""
    path = folder / Path(name).expanduser()
    local = name.startswith((".", "/", "~")) or path.suffix in {".gguf", ".jsonl", ".parquet", ".txt"}
    return str(path.resolve()) if ":" not in name and (local or path.is_dir()) else name


def load(path: Path) -> Suite:
    """A suite from its file.

    Raises:
        InputError: with file, line, key, what is wrong, and what is allowed.
    """
    return yaml_source.load(path, Suite)
