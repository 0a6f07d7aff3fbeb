"""What a solver is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

from replaceme.errors import InputError
from replaceme.report import Report, no_report
from replaceme.selection import merge_adjacent

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedModel

    from replaceme.architectures import Architecture, LayerKind
    from replaceme.calibration import Batches
    from replaceme.decoder import Decoder
    from replaceme.edit import Edit
    from replaceme.selection import Block
    from replaceme.statistics import BlockStatistics, Needs


@dataclass(frozen=True)
class Problem:
    """What a solver is given for one variant.

    Attributes:
        blocks: what is removed, in ascending order.
        statistics: of each block.
        decoder: of the intact model.
        batches: the calibration tokens.
        following: of blocks that touch the one before, see
            :class:`replaceme.compat.reference.WholeState`; empty unless they are fitted one by one.
        in_turn: whether solvers that descend fit each block on the model as pruned so far.
        reload: the model as pruned so far after one more edit, where it cannot be edited as it is
            loaded.
        report: told which share of a solve that takes long is done.
    """

    blocks: tuple[Block, ...]
    statistics: dict[Block, BlockStatistics]
    decoder: Decoder
    batches: Batches
    seed: int = 42
    following: dict[Block, BlockStatistics] = field(default_factory=dict)
    in_turn: bool = False
    reload: Callable[[Edit], PreTrainedModel] | None = None
    report: Report = no_report

    def layer_before(self, block: Block) -> int:
        """The last layer before a block that stays."""
        return next(gap.start - 1 for gap in merge_adjacent(self.blocks) if block.end <= gap.end)

    def statistics_of(self, block: Block) -> BlockStatistics:
        """The block's own statistics, or those of a block that follows another directly."""
        follows = self.layer_before(block) != block.start - 1
        return (self.following if follows else self.statistics)[block]


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
        edit: the blocks removed and the weights changed.
        notes: what is worth recording about the solve (rank, condition number, steps …).
    """

    edit: Edit
    notes: dict[str, Any]


def list_working(architecture: Architecture) -> str:
    """The solvers that work where a norm follows the MLP, for a message."""
    whole = "refit, reconstruct, " if all(kind.entry for kind in architecture.kinds) else ""
    return (
        f"solvers that work are uidl, {whole}and lstsq or relative with diagonal: true, or cosine with "
        f"shape: diagonal"
    )


def list_numbers(kind: LayerKind) -> str:
    """Layers of a kind, for a message."""
    return f"layer{'s' * (len(kind.layers) > 1)} {', '.join(map(str, kind.layers))}"


class LayerSize(NamedTuple):
    """How large the decoder layers of a model are, the mean of them, as they are saved.

    Attributes:
        outputs: bytes of the projections that end the attention and the MLP.
        width: numbers of a hidden state.
    """

    outputs: int
    width: int


class Solver(BaseModel, ABC):
    """A way to make up for removed layers; its fields are its parameters. A new one is a file in this
    folder.

    Attributes:
        name: as a suite names it.
        summary: what it does, in a line.
        version: changes whenever the same parameters would give other numbers.
        rank: where it stands in lists.
        fits: whether it puts something in the place of what is removed.
        passes: about how often a solve runs the calibration text through the whole model; the remaining
            time of a run is told from it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: ClassVar[str]
    summary: ClassVar[str]
    version: ClassVar[int] = 1
    rank: ClassVar[int] = 100
    fits: ClassVar[bool] = True
    passes: ClassVar[float] = 0.0

    @property
    def identity(self) -> dict[str, Any]:
        """Name, version and parameters: what its numbers depend on."""
        return {
            "name": self.name,
            "version": self.version,
            "parameters": self.model_dump(mode="json"),
        }

    @property
    def needs(self) -> Needs:
        """The statistics that the solver reads."""
        from replaceme.statistics import Needs

        return Needs()

    def check(self, architecture: Architecture) -> None:
        """Refuse a family that the solver cannot work on.

        Raises:
            InputError: with the reason, and the solvers that do work.
        """

    @abstractmethod
    def edit_bytes(self, size: LayerSize, gaps: int, layers: int) -> int:
        """Bytes of what it writes for one variant, at most.

        Args:
            gaps: places where layers go.
            layers: of the intact model.
        """

    @abstractmethod
    def solve(self, problem: Problem) -> Solution:
        """The edit; the same problem gives the same bytes."""


class TransformSolver(Solver):
    """Fits T in ``M_{start-1} T + Y_{start-1} ≈ L_{end-1}`` for each block by itself."""

    @property
    def is_diagonal(self) -> bool:
        return False

    def edit_bytes(self, size: LayerSize, gaps: int, layers: int) -> int:  # noqa: ARG002
        return gaps * size.width**2 * 8

    def check(self, architecture: Architecture) -> None:
        for kind in architecture.kinds:
            if kind.norm and not self.is_diagonal:
                raise InputError(
                    f"solver {self.name!r}: in {architecture.title} the norm {kind.norm} follows the "
                    f"MLP, so that only a diagonal transform can be merged; "
                    f"{list_working(architecture)}."
                )
            if not (kind.norm or kind.outputs):
                raise InputError(
                    f"solver {self.name!r}: in {architecture.title} a transform cannot be merged into "
                    f"{list_numbers(kind)}; uidl works."
                )

    @abstractmethod
    def transform(self, statistics: BlockStatistics, seed: int = 42) -> tuple[Tensor, dict[str, Any]]:
        """T [d, d] float64 with hidden states as rows (x → x T), and notes."""

    def solve(self, problem: Problem) -> Solution:
        from replaceme.edit import Edit

        found = self.transforms(problem)
        merged: dict[int, Tensor] = {}
        for block, (transform, _) in found.items():
            layer = problem.layer_before(block)
            before = merged.get(layer)
            merged[layer] = transform if before is None else before @ transform.to(before)
        notes = {block: notes for block, (_, notes) in found.items()}
        return Solution(Edit(problem.blocks, merged), join_notes(notes))

    def transforms(self, problem: Problem) -> dict[Block, tuple[Tensor, dict[str, Any]]]:
        """:meth:`transform` for each block, in ascending order."""
        return {b: self.transform(problem.statistics_of(b), problem.seed) for b in problem.blocks}


def join_notes(notes: dict[Block, dict[str, Any]]) -> dict[str, Any]:
    """Notes of one block as they are, of several by block."""
    if len(notes) == 1:
        return next(iter(notes.values()))
    return {str(block): note for block, note in notes.items()}
