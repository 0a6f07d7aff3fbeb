"""What a suite and the options of a command say in the same words: solvers, blocks, dtypes, paths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from replaceme.amounts import format_amount
from replaceme.calibration import is_data_file
from replaceme.errors import InputError
from replaceme.healing.settings import HealSettings
from replaceme.io.yaml_file import shown
from replaceme.selectors import SELECTORS
from replaceme.solvers import Solver, make_solver

Items = TypeVar("Items", bound=Sequence[Any])
Dtype = Literal["float32", "bfloat16", "float16"]
if TYPE_CHECKING:
    Selector = str
else:
    Selector = Literal[tuple(SELECTORS)]


class SolverSpec(BaseModel):
    """A solver with its parameters, what is trained after it, and the label that both have in tables; a
    bare string means its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    solver: Solver
    heal: HealSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, Solver):
            return {"label": value.name, "solver": value}
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError("a solver is a name, or a mapping with name, its parameters, and as")
        parameters = {key: item for key, item in value.items() if key not in ("name", "as", "heal")}
        healed = value.get("heal") is not None
        label = value.get("as", value["name"] + "-healed" * healed)
        if not isinstance(label, str) or not label:
            raise ValueError("as: the label of a solver must be a text")
        try:
            solver = make_solver(value["name"], **parameters)
        except InputError as error:
            raise ValueError(str(error)) from None
        return {"label": label, "solver": solver, "heal": value.get("heal")}

    def spread(self) -> list[SolverSpec]:
        """One for each place where its training is scored; itself where that is the end alone."""
        if self.heal is None or not self.heal.score_at:
            return [self]
        return [
            self.model_copy(update={"heal": heal, "label": self.label + _tell_end(heal)})
            for heal in self.heal.spread()
        ]


def _tell_end(heal: HealSettings) -> str:
    return f" at {format_amount(heal.until)}" if heal.until else ""


def check_positive(count: int) -> int:
    if count < 1:
        raise ValueError(f"{count} layers cannot be removed; the least is 1")
    return count


def check_block_list(blocks: Items) -> Items:
    for start, end in blocks:
        if not 1 <= start < end:
            raise ValueError(
                f"[{start}, {end}] is no block: START is at least 1, and END, which is kept, is larger"
            )
    for block, following in pairwise(sorted(blocks)):
        if following[0] < block[1]:
            raise ValueError(f"the blocks {list(block)} and {list(following)} overlap")
    return blocks


Count = Annotated[int, AfterValidator(check_positive)]
Blocks = Annotated[list[tuple[int, int]], AfterValidator(check_block_list)]


def resolve_name(name: str, folder: Path) -> str:
    """The name of a model or data set; a path relative to ``folder`` is made absolute, others stay.

    Raises:
        ValueError: neither a name nor a path.
    """
    try:
        path = folder / Path(name).expanduser()
        local = (
            path.is_dir()
            or name.startswith((".", "/", "~"))
            or path.suffix == ".gguf"
            or is_data_file(path)
        )
        return str(path.resolve()) if ":" not in name and (local or "\0" in name) else name
    except (OSError, RuntimeError, ValueError) as error:  # too long, a null byte, an unknown user
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{shown(repr(name))} is no name and no path: {reason}") from None
