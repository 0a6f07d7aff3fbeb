"""A teacher, its student and some text → new values of the student's tensors, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaceme.calibrating import HELD_BACK_TOKENS
from replaceme.calibration import Batches, CalibrationText, padding_token
from replaceme.edit import Edit
from replaceme.errors import InputError
from replaceme.evaluation import HeldBack
from replaceme.facts import HealFacts
from replaceme.healing.course import Course, Objective, Outcome
from replaceme.healing.distillation import Distilling
from replaceme.healing.examples import ExampleText
from replaceme.healing.parts import choose
from replaceme.healing.trained import Trained, open_parameters
from replaceme.reload import Expected
from replaceme.report import Report, no_report

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.healing.pair import Pair
    from replaceme.healing.places import Places
    from replaceme.healing.settings import Training

JUDGED = {"distillation": "divergence", "sft": "cross_entropy"}  # what the facts call the loss


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
    tokenizer: Any = None,
    state: Path | None = None,
    key: str = "",
    report: Report = no_report,
) -> Healed:
    """Train the student of a pair, which has the new values in memory afterwards as well.

    Args:
        text: of the objective ``sft``, what :mod:`replaceme.healing.examples` reads.
        places: where the student's tensors are saved.
        tokenizer: whose token fills up shorter sequences.
        state: file that an interrupted training goes on from; ``None``: it starts anew.
        key: identity of what is trained; a file of another is not read.
        report: told which share of the budget is used up.

    Raises:
        InputError: nothing was removed, the part cannot be trained or saved, too little text, or a
            budget smaller than a step.
    """
    names = choose(pair, training)
    places.check(names)
    pad = padding_token(tokenizer) if tokenizer else 0
    whole = Batches(text.sequences, training.batch_size, training.seed, pad, pair.teacher.lengths)
    fitted, held = _hold_back(whole)
    judge = HeldBack(pair.student, held)
    before = judge.loss(Edit())
    trained = open_parameters(pair, training, names)
    objective: Objective
    if training.is_sft:
        objective = _tune(pair, text, whole, training, tokenizer)
    else:
        objective = Distilling(pair, fitted, held, training)
    outcome = Course(training, trained, objective, state=state, key=key, report=report).run()
    values, judged = _settle(outcome, objective, trained, places)
    after = judge.loss(Edit()) if values else before
    facts = HealFacts(
        objective=training.objective,
        training=training.parameters(),
        numbers=trained.numbers,
        shared_layers=objective.shared,
        tokens=outcome.curve[-1].tokens,
        seconds=outcome.curve[-1].seconds,
        text=text.describe(),
        held_back_tokens=held.tokens,
        **{JUDGED[training.objective]: judged},
        loss=None if before is None or after is None else (before, after),
        curve=outcome.curve,
        used=bool(values),
        warning=_warn(outcome, bool(values)),
    )
    cast, dtype = places.saved.other_cast, pair.teacher.model.dtype
    return Healed(values, facts, Expected(after, held.sequences, dtype, cast))


def _hold_back(whole: Batches) -> tuple[Batches, Batches]:
    """The sequences to train on, and those that judge.

    Raises:
        InputError: there are too few to hold one back.
    """
    fitted, held = whole.held_back(HELD_BACK_TOKENS)
    if not held.sequences:
        raise InputError(
            f"{len(whole.sequences)} sequences are too few to train on: one in ten is held back and "
            f"judges; give at least 10."
        )
    return fitted, held


def _tune(
    pair: Pair, text: CalibrationText, whole: Batches, training: Training, tokenizer: Any
) -> Objective:
    """The objective that is learnt from examples; those held back are those of :func:`_hold_back`."""
    from replaceme.healing.sft import FineTuning

    assert isinstance(text, ExampleText)
    judged = whole.numbers_held_back(HELD_BACK_TOKENS)
    fitted = [example for i, example in enumerate(text.examples) if i not in judged]
    held = [text.examples[i] for i in sorted(judged)]
    return FineTuning(pair, tokenizer, fitted, held, training, text.max_length)


def _settle(
    outcome: Outcome, objective: Objective, trained: Trained, places: Places
) -> tuple[dict[str, Tensor], tuple[float | None, float | None]]:
    """Make the student an ordinary model again: in its best state, rounded as it is saved, if that is
    better than its start, or as it was.

    Returns:
        The values of what changed, and the held-back loss before and after.
    """
    start, values = outcome.curve[0].held_back, places.rounded(outcome.values or {})
    trained.settle(values)
    if values and (found := objective.measure()) < (start or 0.0):
        return values, (start, found)
    trained.settle(places.rounded(trained.before))
    return {}, (start, start)


def _warn(outcome: Outcome, used: bool) -> str | None:
    """What should be known of the result."""
    said = [outcome.warning] if outcome.warning else []
    if not used:
        said.append("healing made nothing better on held-back text, and the weights are as before it")
    return "; ".join(said) or None
