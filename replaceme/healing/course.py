"""A student is trained until a budget is used up; the state that does best on held-back text is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from replaceme.errors import InputError
from replaceme.facts import HealPoint
from replaceme.healing.order import Row
from replaceme.healing.settings import Training
from replaceme.healing.state import State, load_state, save_state
from replaceme.healing.trained import Trained
from replaceme.report import Report, no_report

LARGEST_NORM = 1.0  # of a step's gradients
TICKS = 1000  # of a budget, as the schedule counts them


class _DivergedError(Exception):
    """The loss is not a number any more."""


@dataclass(frozen=True)
class Outcome:
    """What training came to.

    Attributes:
        values: tensor → its exact values in the best state; ``None``: that is the one at the start.
        curve: at every check, the start first.
        warning: what went wrong.
    """

    values: dict[str, Tensor] | None
    curve: list[HealPoint]
    warning: str | None


class Objective(Protocol):
    """What a student is to learn, and from which text."""

    shared: int  # layers that are run once for teacher and student

    def measure(self) -> float:
        """Mean loss on held-back text, in nats."""

    def train(self, course: Course) -> None:
        """Steps of the optimizer as long as the course has some."""


class Course:
    """The training of a student with AdamW; the learning rate rises, then falls as a cosine, over the
    budget.

    An objective takes steps from :meth:`within`; it calls :meth:`prepare` before the optimizer does one,
    and :meth:`count` after.
    """

    def __init__(
        self,
        training: Training,
        trained: Trained,
        objective: Objective,
        *,
        state: Path | None = None,
        key: str = "",
        report: Report = no_report,
    ) -> None:
        """Nothing runs yet.

        Args:
            state: file that an interrupted training goes on from; ``None``: it starts anew.
            key: identity of what is trained; a file of another is not read.
            report: told which share of the budget is used up.
        """
        from transformers import get_cosine_schedule_with_warmup

        self.training, self.trained, self.objective = training, trained, objective
        self._report, self._file, self._key, self._now = report, state, key, State()
        self._parameters = [*trained.parameters.values()]
        self.optimizer = torch.optim.AdamW(
            self._parameters, lr=training.rate, weight_decay=0, fused=True
        )
        warmup = round(training.warmup * TICKS)
        self._schedule = get_cosine_schedule_with_warmup(self.optimizer, warmup, TICKS).lr_lambdas[0]

    def run(self) -> Outcome:
        """Train until the budget is used up.

        Raises:
            InputError: the budget is smaller than a step, or the loss is no number at the start.
        """
        most = self.training.until or math.inf
        found = load_state(self._file, self._key, self.trained.parameters, self.optimizer, most)
        self._now = found or State()
        self._began = time.perf_counter() - self._now.seconds
        warning = None
        try:
            if not self._now.curve:
                self._judge()
            self.objective.train(self)
            if self.training.until:
                self._save()
            if self._now.since:
                self._judge(save=not self.training.until)
        except _DivergedError:
            warning = (
                f"the loss was not a number after {self._now.tokens:,} tokens, where training stopped; "
                f"lower the learning rate"
            )
        return Outcome(self._take_best(), self._now.curve, warning)

    @property
    def steps(self) -> int:
        """How many are done."""
        return self._now.steps

    def within(self, steps: Iterator[list[Row]]) -> Iterator[list[Row]]:
        """Those that are not done yet, as long as the budget has room for another.

        Raises:
            InputError: it has none for the first.
        """
        for rows in islice(steps, self._now.steps, None):
            tokens, budget = sum(map(len, rows)), self.training.budget
            if self._now.steps == 0 and budget is not None and budget < tokens:
                raise InputError(
                    f"tokens: {budget:,} are fewer than one step of {len(rows)} sequences takes, which "
                    f"is {tokens:,}; give more, or a smaller batch_size."
                )
            end = self.training.until or budget
            over = self._share() >= 1 if end is None else self._now.tokens + tokens > end
            if over:
                return
            yield rows

    def until_end(self, steps: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """Those of the next steps that a budget of tokens has room for."""
        end, tokens = self.training.until or self.training.budget, self._now.tokens
        for rows in steps:
            tokens += sum(map(len, rows))
            if end is not None and tokens > end:
                return
            yield rows

    def prepare(self, tokens: int, loss: float) -> None:
        """Make gradients and learning rate ready for a step.

        Args:
            tokens: that it is over.
            loss: of the step, in nats.
        """
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, LARGEST_NORM)
        if not (isfinite(loss) and isfinite(float(norm))):
            raise _DivergedError
        middle = TICKS * min(1.0, self._share(tokens / 2))
        self._now.rate = self.training.rate * float(self._schedule(middle))
        for group in self.optimizer.param_groups:
            group["lr"] = self._now.rate

    def count(self, tokens: int, loss: float, learnt: int) -> None:
        """Note that a step is done, and judge if that is due.

        Args:
            tokens: that it was over.
            loss: sum over those that were learnt, in nats.
            learnt: how many these are.
        """
        now = self._now
        now.steps, now.tokens = now.steps + 1, now.tokens + tokens
        now.loss, now.since = now.loss + loss, now.since + learnt
        self._report(min(1.0, self._share()))
        if self._share() * self.training.checks >= len(now.curve):
            self._judge()

    def _share(self, more: float = 0.0) -> float:
        """How much of the budget is used up, with some more tokens."""
        if self.training.budget is None:
            assert self.training.seconds
            return (time.perf_counter() - self._began) / self.training.seconds
        return (self._now.tokens + more) / self.training.budget

    def _judge(self, save: bool = True) -> None:
        """Note how well the held-back text is predicted, keep the state if it is the best, and save
        everything.

        Args:
            save: a training that is left early goes on elsewhere, as if it had not been judged here.
        """
        now, found = self._now, self.objective.measure()
        if not isfinite(found):
            if not now.curve:
                raise InputError("the predictions of the models on the text are not numbers.")
            raise _DivergedError
        if now.curve and found < min(point.held_back or 0.0 for point in now.curve):
            named = self.trained.parameters.items()
            now.best = {name: values.detach().to("cpu", copy=True) for name, values in named}
        now.seconds = time.perf_counter() - self._began
        now.curve.append(
            HealPoint(
                tokens=now.tokens,
                seconds=now.seconds,
                learning_rate=now.rate,
                trained=now.loss / now.since if now.since else None,
                held_back=found,
            )
        )
        now.loss, now.since = 0.0, 0
        if save:
            self._save()

    def _save(self) -> None:
        """Write all that the training goes on from."""
        self._now.seconds = time.perf_counter() - self._began
        if self._file:
            save_state(self._file, self._key, self._now, self.trained.parameters, self.optimizer)

    def _take_best(self) -> dict[str, Tensor] | None:
        """Put the best state into the parameters, and read the tensors off."""
        if self._now.best is None:
            return None
        for name, parameter in self.trained.parameters.items():
            parameter.data.copy_(self._now.best[name])
        return self.trained.values()
