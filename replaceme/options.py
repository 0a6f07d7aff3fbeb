"""What ``prune`` can be told: keywords of a function, keys of a file, options of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from replaceme.amounts import Size, parse_size
from replaceme.calibration import CalibrationData, check_data
from replaceme.chat import USUAL_DAY, Day
from replaceme.io import yaml_source
from replaceme.selection import Block, merge_adjacent
from replaceme.selectors import SELECTORS, Selection
from replaceme.settings import Blocks, Count, Dtype, Selector, SolverSpec, resolve_name
from replaceme.solvers import SOLVERS, Solver, make_solver


def _from_texts(blocks: Any) -> Any:
    """Pairs from texts ``START:END``; pairs stay."""
    blocks = [blocks] if isinstance(blocks, str) else blocks
    if not isinstance(blocks, list | tuple):
        raise ValueError("give a list of blocks, such as ['13:19']")
    if numbers := [block for block in blocks if isinstance(block, int)]:
        raise ValueError(
            f"{numbers[0]} is no block; write '13:19' with quotes (without them YAML reads a time), or "
            f"[13, 19]"
        )
    return [_pair(block) if isinstance(block, str) else block for block in blocks]


def _pair(text: str) -> tuple[int, int]:
    try:
        start, end = map(int, text.split(":"))
    except ValueError:
        raise ValueError(
            f"block {text!r} is not START:END with two whole numbers, such as 13:19"
        ) from None
    return start, end


def _folder_of(info: ValidationInfo) -> Path | None:
    """What paths of a file are relative to; ``None`` for an option of the command line."""
    context = info.context or {}
    return None if info.field_name in context.get("options", ()) else context.get("folder")


def _name_from_file(name: str, info: ValidationInfo) -> str:
    folder = _folder_of(info)
    return name if folder is None else resolve_name(name, folder)


def _out_from_file(out: Path, info: ValidationInfo) -> Path:
    return (_folder_of(info) or Path()) / out.expanduser()


def _check_is_there(dataset: str) -> str:
    data = CalibrationData(dataset=dataset)
    if data.generated:
        data.read_from()  # which says how it is written
    data.local_file()
    return dataset


ModelName = Annotated[str, Field(min_length=1), AfterValidator(_name_from_file)]
Dataset = Annotated[str, AfterValidator(_name_from_file), AfterValidator(_check_is_there)]
OutFolder = Annotated[Path, AfterValidator(_out_from_file)]


class PruneOptions(BaseModel):
    """One pruned checkpoint: of which model, where, and how."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName = Field(description="hub id, folder, GGUF file, or package:NAME/FILE.gguf")
    revision: str | None = Field(None, description="revision of a hub model")
    layers: Count | None = Field(None, description="number of layers to remove; the blocks are chosen")
    blocks: Annotated[Blocks, BeforeValidator(_from_texts)] = Field(
        [],
        description="remove layers START to END-1 instead (0-based; END stays); may be given several "
        "times",
    )
    solver: SolverSpec = Field(
        default_factory=lambda: SolverSpec.model_validate("reconstruct"),
        description=f"what makes up for them: {', '.join(SOLVERS)}; a file may give parameters too",
    )
    ridge: float | None = Field(None, ge=0, description="ridge of the solver")
    out: OutFolder = Field(description="folder of the pruned checkpoint")
    selector: Selector = Field(
        "angular", description=f"how the blocks are chosen: {', '.join(SELECTORS)}"
    )
    num_blocks: int = Field(1, gt=0, description="in how many blocks of the same size")
    calibration: Dataset = Field("builtin:prose", description="file or hub data set to calibrate on")
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split, or a part such as train[:1000]")
    streaming: bool = Field(False, description="read a hub data set row by row, not all of it")
    calibration_revision: str | None = Field(None, description="revision of a hub data set")
    column: str = Field("text", description="column of the calibration data")
    samples: int = Field(192, gt=0, description="sequences at most")
    max_length: int = Field(256, gt=1, description="tokens of a sequence at most")
    batch_size: int = Field(8, gt=0, description="sequences per forward")
    dtype: Dtype | None = Field(None, description="dtype to save in; not given: the model's own")
    calibration_dtype: Dtype | None = Field(
        None, description="dtype to calibrate in; not given: that of the checkpoint"
    )
    device: str | None = Field(None, description="torch device; not given: the GPU where there is one")
    memory: Size | None = Field(
        None,
        description="memory of the device to calibrate in, such as 20GiB; larger models are read layer "
        "by layer",
    )
    seed: int = Field(42, ge=0, description="seed of what is drawn at random")
    date: Day = Field(USUAL_DAY, description="the day that chat templates take for today")
    compat: Literal["reference"] | None = Field(None, description="do as the published code does")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    transform_only: bool = Field(
        False, description="write what was fitted to the file OUT instead of a checkpoint"
    )
    overwrite: bool = Field(False, description="replace what is at OUT")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.layers is None) == (not self.blocks):
            raise ValueError("give either --layers N or --blocks START:END")
        if self.blocks and self.num_blocks > 1:
            raise ValueError("'num_blocks' belongs to 'layers'; list several blocks instead")
        if self.solver.heal:
            raise ValueError("'heal' belongs to a suite; the verb 'heal' does it to one checkpoint")
        if self.layers and self.layers % self.num_blocks:
            raise ValueError(
                f"{self.layers} layers cannot be removed in {self.num_blocks} blocks of the same size; "
                f"allowed are multiples of {self.num_blocks}"
            )
        self.make_solver()
        try:
            check_data(self.data)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    def make_solver(self) -> Solver:
        """The solver with its parameters.

        Raises:
            InputError: ``ridge`` is none of them, or out of range.
        """
        if self.ridge is None:
            return self.solver.solver
        parameters = self.solver.solver.model_dump() | {"ridge": self.ridge}
        return make_solver(self.solver.solver.name, **parameters)

    @property
    def memory_bytes(self) -> int | None:
        return parse_size(self.memory) if self.memory else None

    @property
    def selection(self) -> Selection:
        return Selection(self.selector, self.num_blocks)

    @property
    def given(self) -> tuple[Block, ...]:
        """The blocks to remove where they are not chosen."""
        return merge_adjacent(Block(*block) for block in self.blocks)

    @property
    def data(self) -> CalibrationData:
        return CalibrationData(
            dataset=self.calibration,
            subset=self.subset,
            split=self.split,
            revision=self.calibration_revision,
            streaming=self.streaming,
            column=self.column,
            samples=self.samples,
            max_length=self.max_length,
            seed=self.seed,
        )


def read_options(config: Path | None, given: dict[str, Any]) -> PruneOptions:
    """Options of a file, overruled by those of the command line.

    Raises:
        InputError: an unknown key, a wrong value, or no model or output.
    """
    if config is not None:
        if "blocks" in given:
            given = {"layers": None, "num_blocks": 1} | given
        elif "layers" in given:
            given = {"blocks": []} | given
    named = {"model": ("model", "the argument MODEL"), "out": ("output", "--out")}
    return yaml_source.load_options(config, PruneOptions, given, named)
