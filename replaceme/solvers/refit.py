"""The whole MLP output projection, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from replaceme.errors import InputError
from replaceme.solvers.base import (
    LayerSize,
    Problem,
    Solution,
    Solver,
    join_notes,
    list_numbers,
    list_working,
)
from replaceme.solvers.fits import choose_fit
from replaceme.solvers.linear import solve_ridge
from replaceme.solvers.projection import Weights, correct_projection

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.architectures import Architecture
    from replaceme.calibration import Batch
    from replaceme.decoder import Decoder, Read
    from replaceme.room import Kept as WaitingStates
    from replaceme.selection import Block
    from replaceme.statistics import Needs

KEPT_TOKENS = 65536  # at most, where what enters the projection, or the experts, is kept


class Refit(Solver):
    """``min_V Σ wᵢ‖Hᵢ V + Yᵢ − Lᵢ‖² + λ‖V − W‖²`` with H the projection's input.

    Not a transform of the projection's output but the projection itself: d_ff × d numbers instead of
    d × d, in the same place. Solved for the correction C = V − W:
    ``(HᵀwH + λI) C = Hᵀw(L − L_in)``. A bias is refitted with it.

    wᵢ = 1/(‖L_inᵢ‖ ‖Lᵢ‖), nearly the relative error's 1/‖Lᵢ‖² for ordinary tokens. It differs where a
    removed layer made an attention sink: the first token's norm grows a hundredfold there, and under
    1/‖Lᵢ‖² the ridge outweighs so long a target, no sink is made, and every later layer's attention
    breaks (11.6 nats instead of 3.5 on a SmolLM2-135M without its layers 11 to 16).

    Where the projection's output passes a norm before it is added, that norm's gain is refitted with it,
    see :class:`replaceme.solvers.normed.NormedFit`; where there are experts in its place, the matrix of
    each, see :class:`replaceme.solvers.experts.ExpertsFit`.
    """

    name: ClassVar[str] = "refit"
    summary: ClassVar[str] = "the whole MLP output projection before the gap, closed form"
    rank: ClassVar[int] = 4

    ridge: float = Field(
        0.01, gt=0, description="pull toward the old weights: λ in units of the median of diag(HᵀwH)"
    )

    @property
    def needs(self) -> Needs:
        from replaceme.statistics import Kind, Needs

        return Needs(frozenset({Kind(of_input=True, rows="geometric")}))

    def edit_bytes(self, size: LayerSize, gaps: int, layers: int) -> int:  # noqa: ARG002
        return gaps * size.outputs

    def check(self, architecture: Architecture) -> None:
        check_projections(self.name, architecture)

    def solve(self, problem: Problem) -> Solution:
        from replaceme.edit import Edit

        weights: Weights = {}
        notes = {}
        for block in problem.blocks:
            linear = problem.decoder.is_linear(block.start - 1)
            found, notes[block] = (self._solve_linear if linear else self._solve_kept)(problem, block)
            weights |= found
        return Solution(Edit(problem.blocks, weights=weights), join_notes(notes))

    def _solve_linear(self, problem: Problem, block: Block) -> tuple[Weights, dict[str, Any]]:
        from replaceme.statistics import Kind

        moments = problem.statistics[block].moments[Kind(of_input=True, rows="geometric")]
        correction, notes = solve_ridge(moments.gram, moments.cross, self.ridge)
        layer = block.start - 1
        path = problem.decoder.entry(layer)
        return correct_projection(problem.decoder, layer, path, correction), notes

    def _solve_kept(self, problem: Problem, block: Block) -> tuple[Weights, dict[str, Any]]:
        """From a pass of its own that keeps tokens, where sums over them are not enough."""
        from replaceme.traversal import walk

        batches = problem.batches.evenly(KEPT_TOKENS)
        kept = _Kept(problem.decoder, block, self.ridge)
        walk(problem.decoder, batches, kept, until=block.end)
        return kept.fit.solve(), {"tokens": batches.tokens}


class _Kept:
    """Gives a fit the states before a block and behind it."""

    def __init__(self, decoder: Decoder, block: Block, ridge: float) -> None:
        self.decoder, self.layer, self.end = decoder, block.start - 1, block.end - 1
        self.path = decoder.entry(self.layer)
        self.fit = choose_fit(decoder, self.layer, [self.path], ridge)
        self._waiting: dict[int, tuple[WaitingStates, WaitingStates]] = {}

    def reads(self, layer: int) -> dict[Any, Read]:
        if layer == self.layer:
            inputs = self.decoder.input_of(layer, self.path)
            return {"input": inputs, "state": self.decoder.output(layer)}
        return {"state": self.decoder.output(layer)} if layer == self.end else {}

    def see(self, layer: int, number: int, batch: Batch, seen: dict[Any, Tensor]) -> None:
        put = self.decoder.room.put
        if layer == self.layer:
            self._waiting[number] = put(seen["input"]), put(seen["state"])
        elif layer == self.end:
            inputs, before = (states.read() for states in self._waiting.pop(number))
            self.fit.add(batch, {self.path: inputs}, before, seen["state"])


def check_projections(solver: str, architecture: Architecture) -> None:
    """Refuse models with layers whose last branch ends neither in one matrix, or one and its norm, nor
    in experts.

    Raises:
        InputError: naming what they end in, and the solvers that do work.
    """
    kind = next((kind for kind in architecture.kinds if not kind.entry), None)
    if kind is None:
        return
    if kind.outputs:
        reason = (
            "adds last what several matrices make of more than one state; lstsq, relative and cosine "
            "fit a transform"
        )
    elif kind.norm:
        working = list_working(architecture)
        reason = f"passes more than the output of one matrix through the norm {kind.norm}; {working}"
    else:
        reason = f"has layers to which nothing is added last: {list_numbers(kind)}; uidl works"
    raise InputError(f"solver {solver!r} does not work on {architecture.title}, which {reason}.")
