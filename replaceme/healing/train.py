"""A student is trained until a budget is used up; the state that does best on held-back text is kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from replaceme.calibration import Batch, Batches
from replaceme.errors import InputError
from replaceme.facts import HealPoint
from replaceme.healing.distillation import Distillation, Start
from replaceme.healing.order import Rows, list_steps, split
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


class Trainer:
    """Trains a student with AdamW; the learning rate rises, then falls as a cosine, over the budget."""

    def __init__(
        self,
        distillation: Distillation,
        trained: Trained,
        batches: Batches,
        starts: list[Start],
        training: Training,
        *,
        state: Path | None = None,
        key: str = "",
        report: Report = no_report,
    ) -> None:
        """Nothing runs yet.

        Args:
            batches: the sequences to train on, ``batch_size`` of them in a step.
            starts: of the batches that judge.
            state: file that an interrupted training goes on from; ``None``: it starts anew.
            key: identity of what is trained; a file of another is not read.

        Raises:
            InputError: the budget is smaller than a step.
        """
        from transformers import get_cosine_schedule_with_warmup

        self.distillation, self.trained, self.batches = distillation, trained, batches
        self.starts, self.training, self.report = starts, training, report
        self._file, self._key, self._now = state, key, State()
        self._parameters = [*trained.parameters.values()]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=training.rate, weight_decay=0)
        warmup = round(training.warmup * TICKS)
        self._schedule = get_cosine_schedule_with_warmup(self._optimizer, warmup, TICKS).lr_lambdas[0]
        self._check_budget()

    def _check_budget(self) -> None:
        step = sum(map(len, next(list_steps(self.batches, self.training.seed))))
        if (budget := self.training.budget) is not None and budget < step:
            raise InputError(
                f"tokens: {budget:,} are fewer than one step of {self.training.batch_size} sequences "
                f"takes, which is {step:,}; give more, or a smaller batch_size."
            )

    def run(self) -> Outcome:
        """Train until the budget is used up.

        Raises:
            InputError: the loss is no number at the start.
        """
        found = load_state(self._file, self._key, self.trained.parameters, self._optimizer)
        self._now = found or State()
        self._began = time.perf_counter() - self._now.seconds
        warning = None
        try:
            if not self._now.curve:
                self._judge()
            for rows in islice(list_steps(self.batches, self.training.seed), self._now.steps, None):
                if self._is_over(rows):
                    break
                self._step(rows)
                self.report(min(1.0, self._share()))
                if self._share() * self.training.checks >= len(self._now.curve):
                    self._judge()
            if self._now.since:
                self._judge()
        except _DivergedError:
            warning = (
                f"the loss was not a number after {self._now.tokens:,} tokens, where training stopped; "
                f"lower the learning rate"
            )
        return Outcome(self._take_best(), self._now.curve, warning)

    def _is_over(self, rows: Rows) -> bool:
        """Whether the budget has no room for another step."""
        if self.training.budget is None:
            return self._share() >= 1
        return self._now.tokens + sum(map(len, rows)) > self.training.budget

    def _share(self, more: float = 0.0) -> float:
        """How much of the budget is used up, with some more tokens."""
        if self.training.budget is None:
            assert self.training.seconds
            return (time.perf_counter() - self._began) / self.training.seconds
        return (self._now.tokens + more) / self.training.budget

    def _step(self, rows: Rows) -> None:
        now, tokens = self._now, sum(map(len, rows))
        self._optimizer.zero_grad()
        loss = sum(
            self.distillation.learn(Batch.of(part, pad=self.batches.pad), 1 / tokens)
            for part in split(rows, self.training.accumulate)
        )
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, LARGEST_NORM)
        if not (isfinite(loss) and isfinite(float(norm))):
            raise _DivergedError
        middle = TICKS * min(1.0, self._share(tokens / 2))
        now.rate = self.training.rate * float(self._schedule(middle))
        for group in self._optimizer.param_groups:
            group["lr"] = now.rate
        self._optimizer.step()
        now.steps, now.tokens = now.steps + 1, now.tokens + tokens
        now.loss, now.since = now.loss + loss, now.since + tokens

    def _judge(self) -> None:
        """Note how well the held-back text is predicted, keep the state if it is the best, and save
        everything."""
        now, found = self._now, self.distillation.measure(self.starts)
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
        if self._file:
            save_state(self._file, self._key, now, self.trained.parameters, self._optimizer)

    def _take_best(self) -> dict[str, Tensor] | None:
        """Put the best state into the parameters, and read the tensors off."""
        if self._now.best is None:
            return None
        for name, parameter in self.trained.parameters.items():
            parameter.data.copy_(self._now.best[name])
        return self.trained.values()
