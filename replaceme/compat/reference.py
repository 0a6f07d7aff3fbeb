"""What the published code does differently: all that is behind ``compat_reference``.

Besides the state after the final norm (:class:`replaceme.decoder.Decoder`): batches in which padding
counts, and several blocks that are fitted one by one. Facts from https://github.com/mts-ai/ReplaceMe.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from replaceme.calibration import Batch, Batches
from replaceme.decoder import Decoder, Read
from replaceme.edit import Edit, apply
from replaceme.errors import InputError
from replaceme.selection import Block, Choice, merge_adjacent, without_overlap
from replaceme.statistics import collect

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from replaceme.architectures import LayerKind
    from replaceme.solvers.base import Problem, TransformSolver


@dataclass(frozen=True)
class ReferenceBatches(Batches):
    """Batches in the data's own order, without an incomplete last one.

    Padding counts, and tokens are ranked as they come, so that a sample is their beginning. Nothing is
    held back.
    """

    @classmethod
    def of(cls, batches: Batches) -> ReferenceBatches:
        """The same data in the published code's batches.

        Raises:
            InputError: it does not fill one batch.
        """
        whole = len(batches.sequences) // batches.batch_size * batches.batch_size
        if not whole:
            raise InputError(
                f"the published code leaves out an incomplete batch, and {len(batches.sequences)} "
                f"calibration texts do not fill one of {batches.batch_size}; lower the batch size."
            )
        return cls(batches.sequences[:whole], batches.batch_size, batches.seed, batches.pad)

    @property
    def counted(self) -> int:
        return sum(len(rows) * max(map(len, rows)) for rows in self._rows())

    def _rows(self) -> Iterator[list[list[int]]]:
        for start in range(0, len(self.sequences), self.batch_size):
            yield self.sequences[start : start + self.batch_size]

    def __iter__(self) -> Iterator[Batch]:
        seen = 0
        for rows in self._rows():
            batch = Batch.of(rows, pad=self.pad)
            ranks = torch.arange(seen, seen + batch.ids.numel())
            yield replace(batch, ranks=ranks, counts_padding=True)
            seen += len(ranks)

    def held_back(self, tokens: int) -> tuple[Batches, Batches]:  # noqa: ARG002
        return self, replace(self, sequences=[])


def published_choice(
    distances: Sequence[float],
    size: int,
    num_blocks: int = 1,
    merge: bool = True,
    min_start: int = 1,
) -> Choice:
    """The closest blocks of ``size`` layers each; fewer, or none, where there is no room.

    The runner-up is what would be chosen without the last block that was; none where that is less.

    Args:
        distances: of the block that starts at layer 1, 2, …
        merge: make blocks that touch one.
        min_start: first layer that may be removed.
    """
    ranked = sorted(
        (Block(start, start + size) for start in range(min_start, len(distances) + 1)),
        key=lambda block: distances[block.start - 1],
    )
    chosen = without_overlap(ranked, num_blocks)
    second = without_overlap([block for block in ranked if block not in chosen[-1:]], num_blocks)

    def score(blocks: Sequence[Block]) -> float:
        return sum(distances[block.start - 1] for block in blocks)

    def put(blocks: Sequence[Block]) -> tuple[Block, ...]:
        return merge_adjacent(blocks) if merge else tuple(sorted(blocks))

    if len(second) < len(chosen):
        return Choice(put(chosen), score(chosen), None, None)
    return Choice(put(chosen), score(chosen), put(second), score(second))


class WholeState(Decoder):
    """A decoder in whose layers M is all of the state, and Y nothing.

    So the published least squares see the layer before a block that follows another block directly:
    that layer is removed as well, and the transform is to take the state that leaves it to the state
    behind the block.
    """

    @classmethod
    def of_decoder(cls, decoder: Decoder) -> WholeState:
        return cls(decoder.model, decoder.architecture, decoder.after_norm, decoder.room)

    def kind(self, layer: int) -> LayerKind:
        return replace(super().kind(layer), factor=1.0)

    def branch(self, layer: int) -> Read:
        return self.output(layer)


def transforms_in_turn(
    solver: TransformSolver, problem: Problem
) -> dict[Block, tuple[Tensor, dict[str, Any]]]:
    """Transform and notes of each block, fitted on the model as pruned so far."""
    decoder, gone, edit = problem.decoder, 0, None
    found = {}
    for block in problem.blocks:
        if edit is not None:
            decoder = replace(
                decoder,
                model=problem.reload(edit) if problem.reload else _save_and_load(decoder, edit),
                architecture=decoder.architecture.keeping(edit.kept(len(decoder.layers))),
            )
        here = Block(block.start - gone, block.end - gone)
        statistics = collect(decoder, problem.batches, [here], solver.needs)[here]
        found[block] = solver.transform(statistics, problem.seed)
        edit, gone = Edit((here,), {here.start - 1: found[block][0]}), gone + block.size
    return found


def _save_and_load(decoder: Decoder, edit: Edit) -> PreTrainedModel:
    """A copy of the model after an edit, rounded to bfloat16 as the published code saves it."""
    model = decoder.model
    rounded = {id(p): nn.Parameter(p.data.bfloat16(), requires_grad=False) for p in model.parameters()}
    pruned = copy.deepcopy(model, rounded)
    apply(pruned, decoder.architecture, edit)
    for parameter in pruned.parameters():
        parameter.data = parameter.data.to(model.dtype)
    return pruned
