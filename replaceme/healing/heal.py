"""A teacher, its student and some text → new values of the student's tensors, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from replaceme.calibrating import HELD_BACK_TOKENS
from replaceme.calibration import Batches, CalibrationText
from replaceme.edit import Edit
from replaceme.errors import InputError
from replaceme.evaluation import HeldBack
from replaceme.facts import HealFacts
from replaceme.healing.distillation import Distillation
from replaceme.healing.parts import choose
from replaceme.healing.train import Outcome, Trainer
from replaceme.healing.trained import open_parameters
from replaceme.reload import Expected
from replaceme.report import Report, no_report

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.healing.pair import Pair
    from replaceme.healing.places import Places
    from replaceme.healing.settings import Training


@dataclass(frozen=True)
class Healed:
    """What healing came to.

    Attributes:
        values: tensor of the student → its values as saved; empty where it made nothing better.
        facts: what was trained on what, and what came of it.
        expected: what a checkpoint with these values is to predict.
    """

    values: dict[str, Tensor]
    facts: HealFacts
    expected: Expected


def heal(
    pair: Pair,
    text: CalibrationText,
    training: Training,
    places: Places,
    *,
    pad: int = 0,
    state: Path | None = None,
    key: str = "",
    report: Report = no_report,
) -> Healed:
    """Train the student of a pair, which has the new values in memory afterwards as well.

    Args:
        places: where the student's tensors are saved.
        pad: token that fills up shorter sequences.
        state: file that an interrupted training goes on from; ``None``: it starts anew.
        key: identity of what is trained; a file of another is not read.
        report: told which share of the budget is used up.

    Raises:
        InputError: nothing was removed, the part cannot be trained or saved, too little text, or a
            budget smaller than a step.
    """
    names = choose(pair, training)
    places.check(names)
    fitted, held = _split(pair, text, training, pad)
    judge = HeldBack(pair.student, held)
    before = judge.loss(Edit())
    trained = open_parameters(pair, training, names)
    distillation = Distillation(pair, training.checkpointing)
    starts = [distillation.start(batch) for batch in held]
    trainer = Trainer(
        distillation, trained, fitted, starts, training, state=state, key=key, report=report
    )
    outcome = trainer.run()
    values = places.rounded(outcome.values or {})
    at_start = end = outcome.curve[0].held_back
    trained.settle(values)
    if values and (found := distillation.measure(starts)) < (at_start or 0.0):
        end, after = found, judge.loss(Edit())
    else:
        values, after = {}, before
        trained.settle(places.rounded(trained.before))
    facts = HealFacts(
        training=training.parameters(),
        numbers=trained.numbers,
        shared_layers=distillation.shared,
        tokens=outcome.curve[-1].tokens,
        seconds=outcome.curve[-1].seconds,
        text=text.describe(),
        held_back_tokens=held.tokens,
        divergence=(at_start, end),
        loss=None if before is None or after is None else (before, after),
        curve=outcome.curve,
        used=bool(values),
        warning=_warn(outcome, bool(values)),
    )
    cast, dtype = places.saved.other_cast, pair.teacher.model.dtype
    return Healed(values, facts, Expected(after, held.sequences, dtype, cast))


def _split(pair: Pair, text: CalibrationText, training: Training, pad: int) -> tuple[Batches, Batches]:
    """The sequences to train on, and those that judge.

    Raises:
        InputError: there are too few to hold one back.
    """
    whole = Batches(text.sequences, training.batch_size, training.seed, pad, pair.teacher.lengths)
    fitted, held = whole.held_back(HELD_BACK_TOKENS)
    if not held.sequences:
        raise InputError(
            f"{len(text.sequences)} sequences are too few to train on: one in ten is held back and "
            f"judges; give at least 10."
        )
    return fitted, held


def _warn(outcome: Outcome, used: bool) -> str | None:
    """What should be known of the result."""
    said = [outcome.warning] if outcome.warning else []
    if not used:
        said.append("healing made nothing better on held-back text, and the weights are as before it")
    return "; ".join(said) or None
