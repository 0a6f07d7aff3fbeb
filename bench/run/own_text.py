"""Text that the models of a run write themselves: where it lies, and what is not written yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.suite.matrix import Cell, Plan
from bench.suite.suite import ModelSpec
from replaceme.calibration import GENERATED, CalibrationData
from replaceme.recipe import digest

if TYPE_CHECKING:
    from datetime import date

FOLDER = "texts"  # in the folder of results


@dataclass(frozen=True)
class OwnText:
    """What a model writes, and where.

    Attributes:
        key: identity of the text: the model, and all settings.
        file: that has it, once it is written.
    """

    model: ModelSpec
    data: CalibrationData
    key: str
    file: Path

    @classmethod
    def of(cls, cell: Cell, data: CalibrationData, day: date, out: Path) -> OwnText:
        """What the model of a cell writes."""
        said: dict[str, Any] = {"model": cell.identity.model.canonical(), "text": data.writing()}
        if data.dataset != GENERATED:
            said["date"] = day.isoformat()
        key = digest(said)
        return cls(cell.model, data, key, out / FOLDER / f"generated-{key}.jsonl")

    @property
    def tokens(self) -> int:
        """To write."""
        assert self.data.generated
        return self.data.generated.tokens

    def describe(self) -> str:
        """For a person to read."""
        assert self.data.generated
        how = ", ".join(
            f"{name} {value:g}"
            for name, value in self.data.generated.model_dump().items()
            if name != "tokens"
        )
        to = "" if self.data.dataset == GENERATED else f" in answer to {self.data.dataset}"
        return f"{self.model.name} writes {self.tokens:,} tokens of its own{to} with vLLM ({how})"


def list_unwritten(plan: Plan, list_due: Callable[[Cell], list[str]], out: Path) -> Iterator[OwnText]:
    """The texts that the cells of a plan still need, each once."""
    found: dict[Path, OwnText] = {}
    for cell in plan.cells:
        due, calibration = list_due(cell), plan.suite.calibration
        needed = [calibration] if cell.solver and "prune" in due else []
        needed += [cell.heal.text(calibration)] if cell.heal and "heal" in due else []
        for data in needed:
            if data.generated:
                text = OwnText.of(cell, data, plan.suite.date, out)
                found[text.file] = text
    yield from (text for file, text in found.items() if not file.is_file())
