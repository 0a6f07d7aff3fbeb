"""Calibration → statistics → block → transform → pruned model: the whole way, as a library."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replaceme.architectures import Architecture, architecture_of
from replaceme.calibration import Batches, tokenize
from replaceme.errors import InputError
from replaceme.fitting import DIAGNOSED_TOKENS, Fit, fit
from replaceme.selection import Block, Choice, check_block, check_count, closest_block
from replaceme.solvers import Solver, make_solver
from replaceme.statistics import Moments, Probe, Report, collect_moments, layer_distances, no_report
from replaceme.surgery import prune_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Calibration:
    """What one model's calibration yields for any number of layer counts and solvers.

    Attributes:
        distances: [layers, layers] float64 (see :func:`replaceme.statistics.layer_distances`), or
            ``None`` where the blocks were given.
        choices: layer count → chosen block; empty where the blocks were given.
        moments: block → its moments.
        tokens: number of calibration tokens.
        seconds: time of the passes.
    """

    distances: Tensor | None
    choices: dict[int, Choice]
    moments: dict[Block, Moments]
    tokens: int
    seconds: float


def passes(blocks_given: bool) -> int:
    """Number of forward passes that :func:`calibrate` makes over the batches."""
    return 1 if blocks_given else 2


def calibrate(
    model: PreTrainedModel,
    batches: Batches,
    *,
    counts: Iterable[int] = (),
    blocks: Iterable[Block] = (),
    solvers: Iterable[Solver] = (),
    compat_reference: bool = False,
    report: Report = no_report,
) -> Calibration:
    """Choose blocks by angular distance and collect their moments.

    Two passes: distances of all pairs of layers, then moments of the chosen blocks, which stops at
    the deepest of them. With ``blocks`` given instead of ``counts`` the first is left out.

    Args:
        counts: numbers of layers to remove.
        blocks: blocks to use as they are.
        solvers: those that will be applied; they say how large a token sample they want.
        compat_reference: read the last layer's state after the final norm, as the reference does.
        report: called after every batch of a pass.

    Raises:
        InputError: unsupported architecture, or a count or block that does not fit the model.
    """
    start = time.perf_counter()
    probe = Probe(model, architecture(model), after_norm=compat_reference)
    counts, given = list(dict.fromkeys(counts)), list(dict.fromkeys(blocks))
    for count in counts:
        check_count(count, len(probe.layers))
    for block in given:
        check_block(block, len(probe.layers))
    distances, choices = None, {}
    if counts:
        distances = layer_distances(probe, batches, report)
        choices = {count: closest_block(distances, count) for count in counts}
    wanted = [*given, *(choice.block for choice in choices.values())]
    sample_tokens = max([DIAGNOSED_TOKENS, *(solver.sample_tokens for solver in solvers)])
    moments = collect_moments(probe, batches, wanted, sample_tokens, report)
    return Calibration(distances, choices, moments, batches.tokens, time.perf_counter() - start)


def architecture(model: PreTrainedModel) -> Architecture:
    """The architecture row of a loaded model."""
    return architecture_of(model.config.to_dict(), model.name_or_path or type(model).__name__)


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` did: the model it changed, the block it removed, and the fit."""

    model: PreTrainedModel
    block: Block
    runner_up: Block | None
    fit: Fit
    tokens: int


def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Any],
    *,
    layers: int | None = None,
    block: Block | None = None,
    solver: str | Solver = "lstsq",
    max_length: int = 256,
    batch_size: int = 8,
    seed: int = 42,
    compat_reference: bool = False,
) -> Pruned:
    """Remove decoder layers from ``model``, in place, and fold the fitted transform into it.

    Afterwards ``model.save_pretrained(folder)`` writes an ordinary checkpoint.

    Args:
        texts: calibration texts, or lists of chat messages.
        layers: how many layers to remove; the block is chosen by angular distance.
        block: the block to remove instead (0-based, half-open).
        solver: a solver's name, or a solver with parameters.
        max_length: tokens of a text at most.
        batch_size: texts per forward.
        seed: of the token sample and of solvers that draw at random.
        compat_reference: see :func:`calibrate`.

    Raises:
        InputError: neither or both of ``layers`` and ``block``, an unsupported model, or no text.
    """
    if (layers is None) == (block is None):
        raise InputError("give either the number of layers to remove or the block to remove.")
    solver = make_solver(solver) if isinstance(solver, str) else solver
    batches = Batches(tokenize(texts, tokenizer, max_length), batch_size, seed)
    if not batches.tokens:
        raise InputError("the calibration texts are empty.")
    result = calibrate(
        model,
        batches,
        counts=[layers] if layers is not None else [],
        blocks=[block] if block is not None else [],
        solvers=[solver],
        compat_reference=compat_reference,
    )
    chosen = block or result.choices[layers].block  # type: ignore[index]
    fitted = fit(solver, result.moments[chosen], seed)
    prune_model(model, architecture(model), chosen, fitted.transform)
    runner_up = result.choices[layers].runner_up if layers is not None else None
    return Pruned(model, chosen, runner_up, fitted, batches.tokens)
