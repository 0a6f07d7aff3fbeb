"""A model that is loaded and calibrated, and the variants that are fitted on it one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replaceme.calibrating import Calibration
from replaceme.calibration import CalibrationText
from replaceme.edit import Edit
from replaceme.facts import Measures, PruneFacts
from replaceme.fitting import Fit, fit
from replaceme.provenance import Provenance, pair_blocks
from replaceme.report import Report, no_report
from replaceme.selection import Block, Choice
from replaceme.selectors import Selection
from replaceme.solvers import Solver

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Variant:
    """A fitted variant of a model; the model itself is not held.

    Attributes:
        choice: ``None`` where the blocks were given, as ``selector`` then is.
        calibration: what it was calibrated on, for its provenance.
        facts: everything that a record says of it.
        no_loss: why no loss on held-back tokens is known; ``None``: it is.
    """

    solver: Solver
    fit: Fit
    selector: str | None
    choice: Choice | None
    calibration: dict[str, Any]
    facts: PruneFacts
    no_loss: str | None

    def trace(self, model: str, weights: str, dtype: str | None) -> Provenance:
        """Where a checkpoint of it comes from.

        Args:
            model: the intact model, as it was named.
            weights: fingerprint of its weights.
            dtype: what the checkpoint is cast to; ``None``: nothing.
        """
        return Provenance.of(
            self.fit,
            model=model,
            weights=weights,
            solver=self.solver,
            calibration=self.calibration,
            selector=self.selector,
            choice=self.choice,
            dtype=dtype,
        )


@dataclass
class Session:
    """A calibrated model, which stays loaded as long as this lives."""

    calibration: Calibration
    text: CalibrationText
    selection: Selection = field(default_factory=Selection)

    def fit(
        self,
        solver: Solver,
        count: int = 0,
        blocks: tuple[Block, ...] = (),
        choice: Choice | None = None,
        reload: Callable[[Edit], PreTrainedModel] | None = None,
        report: Report = no_report,
    ) -> Variant:
        """Fit one variant.

        Args:
            count: layers to remove, one of those that were calibrated for; or
            blocks: the blocks to remove, likewise.
            choice: how the blocks were chosen, where this session did not choose them.
            reload: see :class:`replaceme.solvers.base.Problem`.
            report: told which share of a long solve is done.
        """
        choice = choice or self.calibration.choices.get(count)
        removed, seed = choice.blocks if choice else blocks, self.calibration.batches.seed
        found = fit(solver, self.calibration, removed, seed, reload, report)
        return Variant(
            solver,
            found,
            self.selection.selector if choice else None,
            choice,
            self.text.describe() | {"tokens": self.calibration.tokens},
            self._state_facts(found, choice),
            self._explain_no_loss(found),
        )

    def _state_facts(self, found: Fit, choice: Choice | None) -> PruneFacts:
        return PruneFacts(
            **found.model_dump(include=set(Measures.model_fields)),
            blocks=pair_blocks(found.edit.blocks) or [],
            score=choice.score if choice else None,
            runner_up=pair_blocks(choice.runner_up) if choice else None,
            runner_up_score=choice.runner_up_score if choice else None,
            distances=self._list_distances() if choice else None,
            held_back_tokens=self.calibration.held_back.batches.tokens,
            solve_seconds=found.seconds,
            calibration_tokens=self.calibration.tokens,
            calibration_hash=self.text.hash,
            calibration_rows=self.text.rows,
            calibration_seconds=self.calibration.seconds,
        )

    def _list_distances(self) -> list[list[float | None]] | None:
        """Distance of each block by size and start, to five digits, at the selector's tokens."""
        if (distances := self.calibration.distances) is None:
            return None
        layers = len(distances)
        return [
            [
                round(float(distances[start - 1, start + size - 1]), 5)
                for start in range(1, layers - size + 1)
            ]
            for size in range(1, layers)
        ]

    def _explain_no_loss(self, found: Fit) -> str | None:
        if found.loss is not None:
            return None
        if self.calibration.compat_reference:
            return "the published code holds nothing back"
        count = len(self.calibration.batches.sequences)
        return f"of {count} calibration sequences none is held back; give at least 10"
