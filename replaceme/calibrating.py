"""A loaded model and its calibration tokens → the blocks to remove, and their statistics."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from replaceme.architectures import architecture_of_model
from replaceme.calibration import Batches
from replaceme.compat.reference import ReferenceBatches, WholeState
from replaceme.decoder import Decoder, name_of, without_dropout
from replaceme.distances import layer_distances
from replaceme.edit import Edit
from replaceme.evaluation import HeldBack, Judgement
from replaceme.report import Report, no_report, report_part
from replaceme.room import Room
from replaceme.selection import (
    Block,
    Choice,
    check_blocks,
    check_count,
    merge_adjacent,
)
from replaceme.selectors import Evidence, Selection
from replaceme.solvers import Solver
from replaceme.statistics import (
    BlockStatistics,
    Needs,
    collect,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

HELD_BACK_TOKENS = 4096
ANGULAR = Selection()


@dataclass
class Calibration:
    """What one model's calibration yields for any number of layer counts and solvers.

    Attributes:
        decoder: of the intact model, which stays loaded.
        batches: the tokens that are fitted on.
        held_back: how those that are not are predicted.
        distances: [layers, layers] float64 at the tokens that the selector says (see
            :func:`replaceme.distances.layer_distances`), or ``None`` where the blocks were given.
        choices: layer count → what was chosen; empty where the blocks were given.
        statistics: block → its statistics.
        seconds: time of the passes.
        following: block → its statistics as a block that touches the one before and is fitted by
            itself (``compat_reference``).
        compat_reference: whether it was calibrated as the published code does.
    """

    decoder: Decoder
    batches: Batches
    held_back: HeldBack
    distances: Tensor | None
    choices: dict[int, Choice]
    statistics: dict[Block, BlockStatistics]
    seconds: float
    following: dict[Block, BlockStatistics] = field(default_factory=dict)
    compat_reference: bool = False
    _removal: dict[tuple[Block, ...], Judgement | None] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Number of calibration tokens that are fitted on (``compat_reference``: with padding)."""
        return self.batches.counted

    def is_finite(self) -> bool:
        """Whether the states behind the blocks are numbers."""
        return all(bool(s.sample.after.isfinite().all()) for s in self.statistics.values())

    def judge_removal(self, blocks: tuple[Block, ...]) -> Judgement | None:
        """How plain removal predicts the held-back tokens, computed once."""
        if blocks not in self._removal:
            self._removal[blocks] = self.held_back.judge(Edit(blocks))
        return self._removal[blocks]


@without_dropout
def calibrate(
    model: PreTrainedModel,
    batches: Batches,
    *,
    counts: Iterable[int] = (),
    blocks: Iterable[tuple[Block, ...]] = (),
    solvers: Iterable[Solver] = (),
    selection: Selection = ANGULAR,
    held_back_tokens: int = HELD_BACK_TOKENS,
    compat_reference: bool = False,
    room: Room | None = None,
    report: Report = no_report,
) -> Calibration:
    """Choose blocks and collect their statistics.

    Two passes over the tokens: distances of all pairs of layers, then moments of the chosen blocks,
    which stops at the deepest of them. With ``blocks`` given instead of ``counts`` the first is left
    out.

    Args:
        counts: numbers of layers to remove.
        blocks: blocks to use as they are, each entry those of one variant.
        solvers: those that will be applied; they say which statistics they want.
        selection: how blocks are chosen for the counts.
        held_back_tokens: about how many tokens to keep for the loss, a tenth of the sequences at most.
        compat_reference: do as the published code does: read the last layer's state after the final
            norm, hold nothing back, count padding, and fit blocks that touch one by one where they were
            not merged (see :mod:`replaceme.compat.reference`).
        room: where states wait between two layers.
        report: told after every batch which share of the passes is done.

    Raises:
        InputError: unsupported architecture, a solver that does not work on it, or a count or block
            that does not fit the model.
    """
    start = time.perf_counter()
    counts, given, solvers = list(dict.fromkeys(counts)), list(dict.fromkeys(blocks)), list(solvers)
    architecture = architecture_of_model(model, name_of(model))
    for solver in solvers:
        solver.check(architecture)
    decoder = Decoder.of(model, after_norm=compat_reference, room=room)
    for count in counts:
        check_count(count, len(decoder.layers), num_blocks=selection.num_blocks)
    for variant in given:
        check_blocks(variant, len(decoder.layers))
        decoder.check_removal(variant)
    if compat_reference:
        batches = ReferenceBatches.of(batches)
    else:
        batches = replace(batches, lengths=decoder.lengths)
    fitted, held = batches.held_back(held_back_tokens)
    distances, choices = None, {}
    if counts:
        part = report_part(report, 0.0, 0.5)
        distances = layer_distances(decoder, fitted, selection.tokens, part)
        judge = HeldBack(decoder, fitted.evenly(HELD_BACK_TOKENS))
        evidence = Evidence(distances, lambda blocks: judge.loss(Edit(blocks)), decoder.check_removal)
        choices = {count: selection.choose(evidence, count) for count in counts}
    variants = [*given, *(choice.blocks for choice in choices.values())]
    needs = Needs(
        frozenset(kind for solver in solvers for kind in solver.needs.moments),
        max((solver.needs.sample_tokens for solver in solvers), default=0),
    )
    gaps = [gap for variant in variants for gap in merge_adjacent(variant)]
    following = []
    if compat_reference:
        gaps += [block for variant in variants for block in variant]
        following = [b for variant in variants for a, b in pairwise(variant) if a.end == b.start]
    rest = report_part(report, 0.5 if counts else 0.0, 1.0)
    statistics = collect(decoder, fitted, gaps, needs, rest)
    behind = collect(WholeState.of_decoder(decoder), fitted, following, needs)
    return Calibration(
        decoder,
        fitted,
        HeldBack(decoder, held),
        distances,
        choices,
        statistics,
        time.perf_counter() - start,
        behind,
        compat_reference,
    )
