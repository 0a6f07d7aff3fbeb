"""How far a student's predictions are from its teacher's, and the gradients of that.

Layers that both begin with are run once for both, without gradients. The output matrix is applied to a
few tokens at a time, since there are as many logits as tokens times vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from replaceme.calibration import Batch, Batches
from replaceme.decoder import Call, Decoder
from replaceme.healing.logits import log_softmax, mixed
from replaceme.healing.order import list_steps, split
from replaceme.healing.pair import Pair
from replaceme.logits import tokens_at_once

if TYPE_CHECKING:
    from replaceme.healing.course import Course
    from replaceme.healing.settings import Training


@dataclass(frozen=True)
class Start:
    """What is known of a batch before the student's own layers.

    Attributes:
        entering: states that enter them, [sequences, tokens, d].
        calls: of all layers of the student.
        goal: last states of the teacher at real tokens, [real tokens, d].
        real: [sequences, tokens] bool.
    """

    entering: Tensor
    calls: list[Call]
    goal: Tensor
    real: Tensor


@dataclass(frozen=True)
class Distillation:
    """A pair whose student learns to predict what its teacher does.

    The loss of a token is KL(teacher ‖ student) of the distributions of the next token, in nats.
    It needs no label, so that every real token counts.

    Attributes:
        pair: the parameters that require gradients are the student's alone.
        checkpointing: compute layers anew in the backward instead of keeping what is inside them.
    """

    pair: Pair
    checkpointing: bool = False

    @cached_property
    def shared(self) -> int:
        """Layers that are run once for both."""
        return self.pair.shared

    def learn(self, batch: Batch, weight: float) -> float:
        """Add to the gradients those of ``weight`` times the sum of a batch's losses, which is returned
        in nats."""
        start = self.start(batch)
        with mixed(self.pair.teacher.model):
            ends = self._follow(start)
        total, gradients = 0.0, []
        for goal, leaf in _chunks(start.goal, ends.detach(), self._at_once):
            leaf.requires_grad_()
            reference = self._log_probabilities(self.pair.teacher, goal)
            with mixed(self.pair.teacher.model):
                logits = self.pair.student.predict(leaf[None])[0]
            logs = log_softmax(logits.detach())
            likely = reference.exp()
            total += float((likely * (reference - logs)).sum())
            change = logs.exp_().sub_(likely).mul_(weight)  # of Σ p₀ (log p₀ − log p) by the logits
            logits.backward(change.to(logits.dtype))
            assert leaf.grad is not None
            gradients.append(leaf.grad)
        if ends.requires_grad:
            ends.backward(torch.cat(gradients))
        return total

    @torch.no_grad()
    def measure(self, starts: Iterable[Start]) -> float:
        """Mean loss over the tokens of some batches, in nats."""
        total, count = 0.0, 0
        for start in starts:
            with mixed(self.pair.teacher.model):
                ends = self._follow(start)
            for goal, own in _chunks(start.goal, ends, self._at_once):
                reference = self._log_probabilities(self.pair.teacher, goal)
                with mixed(self.pair.teacher.model):
                    logits = self.pair.student.predict(own[None])[0]
                total += float((reference.exp() * (reference - log_softmax(logits))).sum())
            count += len(start.goal)
        return total / count

    @torch.no_grad()
    def start(self, batch: Batch) -> Start:
        """Run the layers of both that come first, and the teacher to its end."""
        teacher, student = self.pair.teacher, self.pair.student
        states, calls = teacher.enter(batch)
        own, own_calls = student.enter(batch)
        for layer in range(self.shared):
            states = teacher.step(layer, states, calls[layer])
        entering = states if self.shared else own
        for layer in range(self.shared, len(teacher.layers)):
            states = teacher.step(layer, states, calls[layer])
        real = batch.mask.to(states.device)
        return Start(entering, own_calls, states[real], real)

    def _follow(self, start: Start) -> Tensor:
        """Last states of the student at real tokens, [real tokens, d]."""
        student, states = self.pair.student, start.entering
        for layer in range(self.shared, len(student.layers)):
            call = start.calls[layer]
            if self.checkpointing and torch.is_grad_enabled():
                states = checkpoint(student.pass_through, layer, states, call, use_reentrant=False)
            else:
                states = student.pass_through(layer, states, call)
        return states[start.real]

    def _log_probabilities(self, decoder: Decoder, states: Tensor) -> Tensor:
        return log_softmax(decoder.logits(states[None])[0])

    @property
    def _at_once(self) -> int:
        return tokens_at_once(self.pair.teacher.model)


class Distilling:
    """The objective that a student predicts what its teacher does."""

    def __init__(self, pair: Pair, batches: Batches, held: Batches, training: Training) -> None:
        """Runs the teacher over the text that judges.

        Args:
            batches: the sequences to train on, ``batch_size`` of them in a step.
            held: those that judge.
        """
        self.batches, self.training = batches, training
        self.distillation = Distillation(pair, training.checkpointing)
        self.shared = self.distillation.shared
        self._starts = [self.distillation.start(batch) for batch in held]

    def measure(self) -> float:
        return self.distillation.measure(self._starts)

    def train(self, course: Course) -> None:
        batches = self.batches
        steps = list_steps(batches.sequences, batches.batch_size, batches.lengths, self.training.seed)
        for rows in course.within(steps):
            tokens = sum(map(len, rows))
            course.optimizer.zero_grad()
            loss = sum(
                self.distillation.learn(Batch.of(part, pad=batches.pad), 1 / tokens)
                for part in split(rows, self.training.accumulate)
            )
            course.prepare(tokens, loss)
            course.optimizer.step()
            course.count(tokens, loss, tokens)


def _chunks(goals: Tensor, ends: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(goals.split(size), ends.split(size), strict=True)
