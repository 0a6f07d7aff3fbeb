"""The suite file: what to prune, how to score it, how to serve it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from bench.section import Section
from bench.serving.spec import ServeSettings
from bench.suite import files as suite_files
from bench.suite.executor import ExecutorSpec
from bench.suite.prune_spec import Matrix, PruneSpec
from bench.tasks.presets import replace_presets
from bench.tasks.spec import SEEDS, Limit, PromptSpec, Seed, Seeds, TaskSpec
from replaceme.amounts import Size, parse_size
from replaceme.calibration import GENERATED, CalibrationData, check_data
from replaceme.chat import USUAL_DAY, Day
from replaceme.errors import InputError
from replaceme.io import yaml_source
from replaceme.io.models import short_name
from replaceme.io.yaml_file import shown
from replaceme.settings import Dtype, SolverSpec, resolve_name


class ModelSpec(Section):
    """A model to prune; a bare string means its id."""

    id: str = Field(
        min_length=1, description="hub id, local folder, GGUF file, or package:NAME/FILE.gguf"
    )
    revision: str | None = Field(None, description="revision of a hub model")
    dtype: Dtype | None = Field(
        None, description="dtype to calibrate and save in; null: the checkpoint's own"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    num_layers: int | None = Field(
        None,
        gt=1,
        description="decoder layers it has, for shares such as 25%; null: read from its config",
    )
    matrix: Matrix | None = Field(None, description="what is made of this model instead of prune's")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @property
    def name(self) -> str:
        return short_name(self.id)


class ScoreSpec(PromptSpec):
    """Quality: lm-eval tasks."""

    tasks: list[TaskSpec] = Field(
        min_length=1, description="names of tasks, groups or tags, patterns, or presets"
    )
    include_path: list[Path] = Field(
        default=[],
        description="folders with lm-eval task YAMLs, at any depth; * and ** stand for names of folders",
    )
    limit: Limit | None = Field(
        None, description="items of each task at most; under 1: that share of them, rounded up"
    )
    method: Literal["one-pass", "per-variant"] = Field(
        "one-pass", description="per-variant: each checkpoint by itself, through lm-eval's own forward"
    )
    generate: Literal["vllm", "transformers"] | None = Field(
        None,
        description="what writes the texts that tasks ask for; null: vLLM, or transformers, checkpoint "
        "by checkpoint, where vLLM is not installed or does not run the model",
    )
    dtype: Dtype | None = Field(
        None,
        description="dtype to compute in; null: the checkpoint's, but float32 on a CPU without AMX",
    )
    batch_size: int = Field(16, gt=0, description="requests per forward of lm-eval")
    batch_tokens: int | None = Field(
        None, gt=0, description="tokens per forward in one pass; null: what is measured to be fastest"
    )
    confirm_run_unsafe_code: bool = Field(
        False, description="score tasks that run the code that a model writes, as lm_eval's option"
    )
    seed: Seed | Seeds = Field(
        SEEDS,
        description="of random, numpy, torch and the choice of examples, as in lm_eval's --seed; one "
        "number is for all four, and a null in the list leaves that generator as it is",
    )

    @property
    def seeds(self) -> Seeds:
        """One for each generator."""
        return self.seed if isinstance(self.seed, tuple) else (self.seed,) * 4

    def asked(self, task: TaskSpec) -> TaskSpec:
        """A task with the suite's prompt where it says nothing of its own."""
        own = {name: getattr(task, name) for name in PromptSpec.model_fields}
        whole = {name: getattr(self, name) if own[name] is None else own[name] for name in own}
        whole["apply_chat_template"] = template = whole["apply_chat_template"] or False
        if whole["fewshot_as_multiturn"] is None:
            whole["fewshot_as_multiturn"] = bool(template)
        return task.model_copy(update=whole)

    @model_validator(mode="after")
    def _turns_of_conversations(self) -> Self:
        for task in map(self.asked, self.tasks):
            if task.fewshot_as_multiturn and not task.apply_chat_template:
                raise ValueError(
                    f"fewshot_as_multiturn of {task.task!r} needs apply_chat_template, as in lm_eval"
                )
        return self

    @field_validator("tasks", mode="before")
    @classmethod
    def _presets(cls, tasks: Any) -> Any:
        return replace_presets(tasks) if isinstance(tasks, list) else tasks

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
        folder = _folder(info, "score", "include_path")
        return [found for path in paths for found in _folders(path, folder)]


class Suite(Section):
    """A whole suite file."""

    extends: str | None = Field(
        None,
        description="suite file, or name of a shipped suite, that this one changes: mappings key by "
        "key, lists and single values as a whole; null takes a value back to its default",
    )
    name: str = Field(
        pattern=r"^\w[\w.-]*$", max_length=100, description="also the name of the default output folder"
    )
    models: list[ModelSpec] = Field(min_length=1, description="models to prune")
    prune: PruneSpec = Field(description="which variants to make")
    calibration: CalibrationData = Field(
        default_factory=CalibrationData, description="text that the statistics are taken from"
    )
    date: Day = Field(USUAL_DAY, description="the day that chat templates take for today")
    score: ScoreSpec | None = Field(None, description="null: no quality is measured")
    serve: ServeSettings | None = Field(None, description="null: no latency and memory are measured")
    device: str | None = Field(None, description="torch device; null: the GPU where there is one")
    memory: Size | None = Field(
        None,
        description="memory of the device to prune, heal and score in, such as 20GiB; a larger model "
        "is read layer by layer",
    )
    executor: ExecutorSpec = Field(
        default_factory=ExecutorSpec, description="who does the work: this process, or workers of Ray"
    )
    keep_checkpoints: Literal["none", "best", "all"] = Field(
        "all",
        description="best: that of the best average at each layer count of a model; what solvers found "
        "stays in edits/, and 'apply' makes a checkpoint of it",
    )

    @field_validator("models")
    @classmethod
    def _from_suite(cls, models: list[ModelSpec], info: ValidationInfo) -> list[ModelSpec]:
        folder = _folder(info, "models")
        models = [m.model_copy(update={"id": resolve_name(m.id, folder)}) for m in models]
        for i, model in enumerate(models):
            if model.matrix:
                solvers = _with_texts(model.matrix.solvers, info, "models", i, "matrix")
                matrix = model.matrix.model_copy(update={"solvers": tuple(solvers)})
                models[i] = model.model_copy(update={"matrix": matrix})
        names = [model.name for model in models]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two models are named {sorted(twice)[0]!r}, which would make duplicate cells"
            )
        return models

    @field_validator("prune")
    @classmethod
    def _texts_of_healing(cls, prune: PruneSpec, info: ValidationInfo) -> PruneSpec:
        return prune.model_copy(update={"solvers": _with_texts(prune.solvers, info, "prune")})

    @field_validator("calibration")
    @classmethod
    def _calibration_path(cls, data: CalibrationData, info: ValidationInfo) -> CalibrationData:
        folder = _folder(info, "calibration", "dataset")
        data = data.model_copy(update={"dataset": _resolve_dataset(data.dataset, folder)})
        _check(partial(check_data, data))
        return data

    def limited(self, limit: float | None) -> Suite:
        """The same with so many items of each task at most; ``None`` changes nothing."""
        if limit is None or self.score is None:
            return self
        return self.model_copy(update={"score": self.score.model_copy(update={"limit": limit})})

    def within(self, memory: str | None) -> Suite:
        """The same with so much memory at most; ``None`` changes nothing."""
        return self if memory is None else self.model_copy(update={"memory": memory})

    def done_by(self, name: str | None, address: str | None) -> Suite:
        """The same with another executor; ``None`` changes nothing.

        Raises:
            pydantic.ValidationError: there is no such executor, or it has no address.
        """
        said = {"name": name, "address": address}
        said = {key: value for key, value in said.items() if value is not None}
        own = self.executor.model_dump(exclude_unset=True)
        return self.model_copy(update={"executor": ExecutorSpec.model_validate(own | said)})

    @property
    def memory_bytes(self) -> int | None:
        return parse_size(self.memory) if self.memory else None

    @model_validator(mode="after")
    def _fitting_matrices(self) -> Self:
        for i, model in enumerate(self.models):
            try:
                self.prune.changed(model.matrix)
            except ValueError as error:
                raise ValueError(f"models.{i}.matrix of {model.name!r}: {error}") from None
        return self

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if self.score is None and self.serve is None:
            raise ValueError("the suite measures nothing; give it a 'score' or a 'serve' section")
        return self


def _with_texts(
    solvers: Sequence[SolverSpec], info: ValidationInfo, *location: str | int
) -> list[SolverSpec]:
    """The solvers, with the data sets that they heal on found from the file that names them.

    Raises:
        ValueError: one cannot be used.
    """
    found = []
    for i, spec in enumerate(solvers):
        if spec.heal and spec.heal.dataset:
            folder = _folder(info, *location, "solvers", i, "heal", "dataset")
            named = {"dataset": _resolve_dataset(spec.heal.dataset, folder)}
            heal = spec.heal.model_copy(update=named)
            _check(heal.check_text)
            spec = spec.model_copy(update={"heal": heal})
        found.append(spec)
    return found


def _resolve_dataset(name: str, folder: Path) -> str:
    """The name of a data set, a path made absolute; text that a model writes has none.

    Raises:
        ValueError: neither a name nor a path.
    """
    return name if name == GENERATED else resolve_name(name, folder)


def _check(check: Callable[[], None]) -> None:
    """What refuses a data set of which can be seen that it is wrong, for pydantic.

    Raises:
        ValueError: saying what.
    """
    try:
        check()
    except InputError as error:
        raise ValueError(str(error)) from None


def _folder(info: ValidationInfo, *location: str | int) -> Path:
    """What a path at a location is relative to: the folder of the file that says it."""
    source = (info.context or {}).get("source")
    return source.at(location).path.parent if source else Path()


def _folders(path: Path, folder: Path) -> list[Path]:
    """The folder that a path or a pattern means, or several.

    Raises:
        ValueError: there is none.
    """
    try:
        whole = folder / path.expanduser()
        matches = [str(whole)] if whole.is_dir() else glob(str(whole), recursive=True)  # noqa: PTH207
        found = sorted({Path(match).resolve() for match in matches if Path(match).is_dir()})
    except (OSError, RuntimeError) as error:  # too long, or the home of an unknown user
        raise ValueError(f"{shown(str(path))} names no folder: {error}") from None
    if not found:
        raise ValueError(f"there is no folder {shown(str(whole.resolve()))}")
    return found


def load(path: Path) -> Suite:
    """A suite from its file and those it extends.

    Raises:
        InputError: with file, line, key, what is wrong, and what is allowed.
    """
    source = suite_files.read(path)
    if "model_path" in source.value:
        raise InputError(
            f"{path}: this is no suite but a file of the published commands; run it by 'run_replaceme "
            f"--config {path}', or by run_uidl for plain removal."
        )
    return yaml_source.validate(source, Suite)
