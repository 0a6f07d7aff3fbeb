"""A loaded model and its calibration tokens → the blocks to remove, and their statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from replaceme.architectures import architecture_of_model
from replaceme.calibration import Batches
from replaceme.compat.reference import ReferenceBatches, WholeState
from replaceme.decoder import Decoder, name_of, without_dropout
from replaceme.distances import mean_distances, sum_distances
from replaceme.edit import Edit
from replaceme.evaluation import HeldBack
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
from replaceme.statistics import BlockStatistics, Needs, Totals, sum_moments
from replaceme.sums import Portion, Sum, count_parts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

HELD_BACK_TOKENS = 4096
ANGULAR = Selection()


@dataclass
class Calibrated:
    """What was found on all calibration tokens.

    Attributes:
        distances: [layers, layers] float64 at the tokens that the selector says (see
            :func:`replaceme.distances.layer_distances`), or ``None`` where the blocks were given.
        choices: layer count → what was chosen; empty where the blocks were given.
        statistics: block → its statistics.
        following: block → its statistics as a block that touches the one before and is fitted by
            itself (``compat_reference``).
        seconds: time of the passes.
    """

    distances: Tensor | None
    choices: dict[int, Choice]
    statistics: dict[Block, BlockStatistics]
    following: dict[Block, BlockStatistics]
    seconds: float

    def of(self, blocks: tuple[Block, ...]) -> Calibrated:
        """What concerns a variant without some blocks."""
        wanted = {*blocks, *merge_adjacent(blocks)}
        statistics, following = (
            {block: found for block, found in part.items() if block in wanted}
            for part in (self.statistics, self.following)
        )
        return replace(self, statistics=statistics, following=following)

    def is_finite(self) -> bool:
        """Whether the states behind the blocks are numbers."""
        return all(bool(s.sample.after.isfinite().all()) for s in self.statistics.values())


@dataclass
class Calibration(Calibrated):
    """What one model's calibration yields for any number of layer counts and solvers.

    Attributes:
        decoder: of the intact model, which stays loaded.
        batches: the tokens that are fitted on.
        held_back: how those that are not are predicted.
        compat_reference: whether it was calibrated as the published code does.
    """

    decoder: Decoder
    batches: Batches
    held_back: HeldBack
    compat_reference: bool

    @property
    def tokens(self) -> int:
        """Number of calibration tokens that are fitted on (``compat_reference``: with padding)."""
        return self.batches.counted


@dataclass
class Moments:
    """What the statistics of the chosen blocks are made of, over some parts of the tokens.

    Attributes:
        blocks, following: of :attr:`Calibrated.statistics` and :attr:`Calibrated.following`.
    """

    blocks: Totals
    following: Totals

    def extend(self, later: Moments) -> None:
        """Add those over the parts that follow."""
        self.blocks.extend(later.blocks)
        self.following.extend(later.following)


class Calibrator:
    """A model in evaluation mode and its calibration tokens, in parts that can be summed up anywhere.

    Attributes:
        decoder, batches, held_back: see :class:`Calibration`.
        counts, given: what the blocks are chosen for, and those that are given instead.
        parts: number of parts of the tokens.
    """

    def __init__(
        self,
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
    ) -> None:
        """Have a model calibrated; see :func:`calibrate`."""
        self.counts, self.given = list(dict.fromkeys(counts)), list(dict.fromkeys(blocks))
        self.selection, self.compat_reference = selection, compat_reference
        solvers, architecture = list(solvers), architecture_of_model(model, name_of(model))
        for solver in solvers:
            solver.check(architecture)
        self.decoder = Decoder.of(model, after_norm=compat_reference, room=room)
        for count in self.counts:
            check_count(count, len(self.decoder.layers), num_blocks=selection.num_blocks)
        for variant in self.given:
            check_blocks(variant, len(self.decoder.layers))
            self.decoder.check_removal(variant)
        if compat_reference:
            batches = ReferenceBatches.of(batches)
        else:
            batches = replace(batches, lengths=self.decoder.lengths)
        self.batches, held = batches.held_back(held_back_tokens)
        self.held_back, self.parts = HeldBack(self.decoder, held), count_parts(self.batches)
        self._needs = Needs(
            frozenset(kind for solver in solvers for kind in solver.needs.moments),
            max((solver.needs.sample_tokens for solver in solvers), default=0),
        )

    def sum_distances(self, parts: range, report: Report = no_report) -> Sum:
        """The sum of distances over some parts, see :func:`replaceme.distances.sum_distances`."""
        portion = Portion(self.batches, parts)
        return sum_distances(self.decoder, portion, self.selection.tokens, report)

    def choose(self, total: Sum) -> tuple[Tensor, dict[int, Choice]]:
        """The distances of which all parts are summed up, and what they have chosen for each count."""
        distances = mean_distances(total, self.batches, self.selection.tokens)
        judge = HeldBack(self.decoder, self.batches.evenly(HELD_BACK_TOKENS))
        check = self.decoder.check_removal
        evidence = Evidence(distances, lambda blocks: judge.loss(Edit(blocks)), check)
        return distances, {count: self.selection.choose(evidence, count) for count in self.counts}

    def sum_moments(
        self, choices: dict[int, Choice], parts: range, report: Report = no_report
    ) -> Moments:
        """What the statistics of the chosen blocks, and of the given ones, are made of."""
        variants = [*self.given, *(choice.blocks for choice in choices.values())]
        gaps = [gap for variant in variants for gap in merge_adjacent(variant)]
        following = []
        if self.compat_reference:
            gaps += [block for variant in variants for block in variant]
            following = [b for variant in variants for a, b in pairwise(variant) if a.end == b.start]
        portion, whole = Portion(self.batches, parts), WholeState.of_decoder(self.decoder)
        return Moments(
            sum_moments(self.decoder, portion, gaps, self._needs, report),
            sum_moments(whole, portion, following, self._needs),
        )

    def calibrate(self, report: Report = no_report) -> Calibration:
        """Sum up all parts here; see :func:`calibrate`."""
        every = range(self.parts)
        found = calibrate_in_passes(
            partial(self.sum_distances, every) if self.counts else None,
            self.choose,
            lambda choices, report: self.sum_moments(choices, every, report),
            report,
        )
        return self.calibration(found)

    def calibration(self, found: Calibrated) -> Calibration:
        """What was found, with the model."""
        return Calibration(
            **vars(found),
            decoder=self.decoder,
            batches=self.batches,
            held_back=self.held_back,
            compat_reference=self.compat_reference,
        )


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
    return Calibrator(
        model,
        batches,
        counts=counts,
        blocks=blocks,
        solvers=solvers,
        selection=selection,
        held_back_tokens=held_back_tokens,
        compat_reference=compat_reference,
        room=room,
    ).calibrate(report)


def calibrate_in_passes(
    sum_distances: Callable[[Report], Sum] | None,
    choose: Callable[[Sum], tuple[Tensor, dict[int, Choice]]],
    sum_moments: Callable[[dict[int, Choice], Report], Moments],
    report: Report,
) -> Calibrated:
    """The two passes over all parts of the tokens, whoever makes them.

    Args:
        sum_distances: ``None``: the blocks are given.
    """
    start = time.perf_counter()
    distances: Tensor | None = None
    choices: dict[int, Choice] = {}
    if sum_distances:
        distances, choices = choose(sum_distances(report_part(report, 0.0, 0.5)))
    moments = sum_moments(choices, report_part(report, 0.5 if sum_distances else 0.0, 1.0))
    return conclude(distances, choices, moments, time.perf_counter() - start)


def conclude(
    distances: Tensor | None, choices: dict[int, Choice], moments: Moments, seconds: float
) -> Calibrated:
    """What is found in sums over all parts, which are given away.

    Args:
        distances, choices, seconds: see :class:`Calibrated`.
    """
    statistics, following = moments.blocks.statistics(), moments.following.statistics()
    return Calibrated(distances, choices, statistics, following, seconds)
