"""The step that removes layers and makes up for them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from replaceme.calibration import (
    BUILTIN_PREFIX,
    BUILTINS,
    COLUMN,
    GENERATED,
    CalibrationData,
    Generated,
)
from replaceme.io.models import is_hub_id
from replaceme.recipe.step import Part, Step, digest

LOCAL = "calibration.jsonl"  # stands for local data, whose name is not recorded


class SolverSettings(Part):
    """A solver with all its parameters; ``version`` changes when the same give other numbers."""

    name: str
    version: int | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class CalibrationSettings(Part):
    """What calibration sequences depend on, as far as it is known before they are read.

    Attributes:
        data: fingerprint of local data, or ``hub:ID@REVISION``.
        samples, max_length: sequences at most, and tokens of one.
        streaming: rows that a stream was shuffled within.
        date: the day that chat templates took for today.
        generated: how the model wrote the text itself, to the prompts in ``data`` if there are any.
    """

    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    column: str | None = None
    samples: int | None = None
    max_length: int | None = None
    seed: int | None = None
    data: str | None = None
    streaming: int | None = None
    date: str | None = None
    generated: Generated | None = None

    @property
    def hub(self) -> tuple[str, str] | None:
        """Id and revision of a data set on the hub."""
        name, _, revision = (self.data or "").removeprefix("hub:").rpartition("@")
        return (name, revision) if (self.data or "").startswith("hub:") and is_hub_id(name) else None

    @property
    def name(self) -> str | None:
        """Hub id or built-in text, or that there is none since the model wrote; ``None`` for local data,
        which are known by content alone."""
        if self.hub:
            return self.hub[0]
        if self.data == GENERATED:
            return GENERATED
        known = {
            CalibrationData(dataset=name).fingerprint(): name
            for name in (f"{BUILTIN_PREFIX}{builtin}" for builtin in BUILTINS)
        }
        return known.get(self.data or "")

    @property
    def file(self) -> str:
        """What stands for the file of a text that the model wrote itself."""
        return f"generated-{digest(self.writing())[:8]}.jsonl"

    def writing(self) -> dict[str, Any]:
        """The keys of ``generate`` that have the model write the same text."""
        assert self.generated
        said = self.generated.model_dump() | {"max_length": self.max_length}
        if self.data == GENERATED:
            return said
        asked = {**self._source(), "samples": self.samples, "prompts_seed": self.seed}
        asked["prompts"] = asked.pop("calibration")
        asked["prompts_revision"] = asked.pop("calibration_revision")
        return said | asked | {"date": self.date}

    def settings(self) -> dict[str, Any]:
        """The keys of ``prune`` that name the same text."""
        source = self._source()
        if self.generated:
            source = dict.fromkeys(source) | {"calibration": self.file, "column": COLUMN}
        return source | {
            "samples": self.samples,
            "max_length": self.max_length,
            "seed": self.seed,
            "date": self.date,
        }

    def _source(self) -> dict[str, Any]:
        revision = self.hub[1] if self.hub and self.hub[1] != "main" else None
        return {
            "calibration": self.name or LOCAL,
            "calibration_revision": revision,
            "subset": self.subset,
            "split": self.split,
            "column": self.column,
            "streaming": True if self.streaming else None,
        }


class PruneStep(Step):
    """Layers removed, by count or as blocks, and a solver that makes up for them.

    Attributes:
        layers: how many are removed.
        blocks: what is removed, 0-based, half-open; empty: chosen by ``selector``.
        num_blocks: in how many blocks of the same size.
        compat: ``reference`` does as the published code does.
        calibration_dtype: the model is calibrated in; ``None``: that of its weights.
    """

    kind: ClassVar[str] = "prune"

    layers: int
    blocks: tuple[tuple[int, int], ...] = ()
    selector: str | None = None
    num_blocks: int = 1
    compat: Literal["reference"] | None = None
    calibration_dtype: str | None = None
    solver: SolverSettings
    calibration: CalibrationSettings = CalibrationSettings()

    def settings(self) -> dict[str, Any]:
        return {
            "layers": None if self.blocks else self.layers,
            "blocks": [f"{start}:{end}" for start, end in self.blocks] or None,
            "selector": self.selector,
            "num_blocks": None if self.blocks else self.num_blocks,
            "solver": {"name": self.solver.name, **self.solver.parameters},
            **self.calibration.settings(),
            "calibration_dtype": self.calibration_dtype,
            "compat": self.compat,
        }

    def words(self) -> str:
        return "1 layer removed" if self.layers == 1 else f"{self.layers} layers removed"
