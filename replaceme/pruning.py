"""A model and texts in memory → the model pruned, in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from replaceme.calibrating import calibrate
from replaceme.calibration import Batches, CalibrationText, padding_token, tokenize
from replaceme.chat import USUAL_DAY
from replaceme.decoder import without_dropout
from replaceme.edit import apply
from replaceme.errors import InputError
from replaceme.fitting import Fit
from replaceme.selection import Block, Choice, merge_adjacent
from replaceme.selectors import Selection
from replaceme.session import Session
from replaceme.solvers import Solver, make_solver

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` did: the model it changed, the blocks it removed, and the fit."""

    model: PreTrainedModel
    blocks: tuple[Block, ...]
    choice: Choice | None
    fit: Fit
    tokens: int


@without_dropout
def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Any],
    *,
    layers: int | None = None,
    blocks: Sequence[Block] = (),
    solver: str | Solver = "reconstruct",
    selector: str = "angular",
    num_blocks: int = 1,
    max_length: int = 256,
    batch_size: int = 8,
    seed: int = 42,
    day: date = USUAL_DAY,
    compat_reference: bool = False,
) -> Pruned:
    """Remove decoder layers from ``model``, in place, and make up for them.

    Afterwards ``model.save_pretrained(folder)`` writes an ordinary checkpoint.

    Args:
        texts: calibration texts, or lists of chat messages.
        layers: how many layers to remove; the blocks are chosen.
        blocks: the blocks to remove instead (0-based, half-open).
        solver: a solver's name, or a solver with parameters.
        selector: how blocks are chosen, see :data:`replaceme.selectors.SELECTORS`.
        num_blocks: in how many blocks of the same size.
        max_length: tokens of a text at most.
        batch_size: texts per forward.
        seed: of the token sample and of solvers that draw at random.
        day: today, for a chat template that asks.
        compat_reference: see :func:`calibrate`.

    Raises:
        InputError: neither or both of ``layers`` and ``blocks``, an unsupported model, or no text.
    """
    if (layers is None) == (not blocks):
        raise InputError("give either the number of layers to remove or the blocks to remove.")
    solver = make_solver(solver) if isinstance(solver, str) else solver
    text = CalibrationText(tokenize(texts, tokenizer, max_length, day))
    if not text.sequences:
        raise InputError("the calibration texts are empty.")
    given = merge_adjacent(Block(*block) for block in blocks)
    selection = Selection(selector, num_blocks)
    calibration = calibrate(
        model,
        Batches(text.sequences, batch_size, seed, padding_token(tokenizer)),
        counts=[layers] if layers is not None else [],
        blocks=[given] if given else [],
        solvers=[solver],
        selection=selection,
        compat_reference=compat_reference,
    )
    variant = Session(calibration, text, selection).fit(solver, layers or 0, given)
    apply(model, calibration.decoder.architecture, variant.fit.edit)
    chosen = variant.choice.blocks if variant.choice else given
    return Pruned(model, chosen, variant.choice, variant.fit, calibration.tokens)
