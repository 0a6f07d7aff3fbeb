"""How far a student's predictions are from its teacher's, and the gradients of that.

Layers that both begin with are run once for both, without gradients. The output matrix is applied to a
few tokens at a time, since there are as many logits as tokens times vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from replaceme.calibration import Batch, Batches
from replaceme.decoder import Call, Decoder
from replaceme.healing.logits import log_softmax, mixed
from replaceme.healing.order import list_steps, split
from replaceme.healing.pair import Pair
from replaceme.logits import tokens_at_once
from replaceme.room import Kept
from replaceme.traversal import chunks, enter, pass_layer

if TYPE_CHECKING:
    from replaceme.healing.course import Course
    from replaceme.healing.settings import Training

AHEAD = 16  # steps whose text the teacher reads in one walk, where its layers are brought one by one


@dataclass(frozen=True)
class Start:
    """What is known of a batch before the student's own layers.

    Attributes:
        entering: states that enter them, [sequences, tokens, d].
        calls: of all layers of the student.
        goal: last states of the teacher at real tokens, [real tokens, d].
        real: [sequences, tokens] bool.
    """

    entering: Kept
    calls: list[Call]
    goal: Kept
    real: Tensor


@dataclass(frozen=True)
class Distillation:
    """A pair whose student learns to predict what its teacher does.

    The loss of a token is KL(teacher ‖ student) of the distributions of the next token, in nats.
    It needs no label, so that every real token counts.

    Attributes:
        pair: the parameters that require gradients are the student's alone.
        checkpointing: compute layers anew in the backward instead of keeping what is inside them; so it
            is done where layers are brought one by one.
    """

    pair: Pair
    checkpointing: bool = False

    @cached_property
    def shared(self) -> int:
        """Layers that are run once for both."""
        return self.pair.shared

    @property
    def _own(self) -> range:
        """The student's other layers."""
        return range(self.shared, len(self.pair.student.layers))

    def start(self, batches: Iterable[Batch]) -> list[Start]:
        """Run the layers of both that come first, and the teacher to its end."""
        found: list[Start] = []
        for chunk in chunks(batches, self.pair.teacher.chunk):
            found += self._start(chunk)
        return found

    @torch.no_grad()
    def _start(self, batches: Sequence[Batch]) -> Iterator[Start]:
        teacher, student = self.pair.teacher, self.pair.student
        streams = [enter(teacher, number, batch) for number, batch in enumerate(batches)]
        calls, entering = list[list[Call]](), list[Kept]()
        for batch in batches:
            states, called = student.enter(batch)
            calls.append(called)
            if not self.shared:
                entering.append(student.room.put(states))
        for layer in range(len(teacher.layers)):
            pass_layer(teacher, layer, streams)
            if layer + 1 == self.shared:
                entering = [stream.states for stream in streams]
        for stream, own, before in zip(streams, calls, entering, strict=True):
            ends = stream.states.read()
            real = stream.batch.mask.to(ends.device)
            yield Start(before, own, teacher.room.put(ends[real]), real)

    def learn(self, starts: Sequence[Start], weight: float) -> float:
        """Add to the gradients those of ``weight`` times the sum of some batches' losses, which is
        returned in nats."""
        student = self.pair.student
        if self.checkpointing or not student.is_resident:
            together = chunks(starts, student.chunk)
            return sum(self._learn_layer_by_layer(chunk, weight) for chunk in together)
        return sum(self._learn(start, weight) for start in starts)

    def _learn(self, start: Start, weight: float) -> float:
        states = start.entering.read()
        with mixed(self.pair.teacher.model):
            for layer in self._own:
                states = self.pair.student.pass_through(layer, states, start.calls[layer])
        loss, gradient = self._compare(start, states.detach(), weight)
        if states.requires_grad:
            states.backward(gradient)
        return loss

    def _learn_layer_by_layer(self, starts: Sequence[Start], weight: float) -> float:
        """The same, for batches that pass each layer together, onward and then back."""
        student, room = self.pair.student, self.pair.student.room
        entered: dict[int, list[Kept]] = {}
        total, gradients = 0.0, []
        for start, ends in zip(starts, self._follow(starts, entered), strict=True):
            loss, gradient = self._compare(start, ends.read(), weight)
            total += loss
            gradients.append(room.put(gradient))
        first = self._find_first_trained()
        for layer in reversed(range(first, len(student.layers))):
            for number, (start, before) in enumerate(zip(starts, entered.pop(layer), strict=True)):
                states = before.read().requires_grad_(layer > first)
                with mixed(self.pair.teacher.model):
                    after = student.pass_through(layer, states, start.calls[layer])
                after.backward(gradients[number].read())
                if states.grad is not None:
                    gradients[number] = room.put(states.grad)
        return total

    def _find_first_trained(self) -> int:
        """The first of the student's layers with something that is trained; their number: none has."""
        layers = self.pair.student.layers
        trained = (
            layer for layer in self._own if any(p.requires_grad for p in layers[layer].parameters())
        )
        return next(trained, len(layers))

    @torch.no_grad()
    def _follow(
        self, starts: Sequence[Start], entered: dict[int, list[Kept]] | None = None
    ) -> list[Kept]:
        """Last states of the student, [sequences, tokens, d] of each batch.

        Args:
            entered: takes the states that enter each layer.
        """
        student = self.pair.student
        streams = [start.entering for start in starts]
        for layer in self._own:
            if entered is not None:
                entered[layer] = [*streams]
            for number, start in enumerate(starts):
                with mixed(self.pair.teacher.model):
                    after = student.pass_through(layer, streams[number].read(), start.calls[layer])
                streams[number] = student.room.put(after)
        return streams

    def _compare(self, start: Start, states: Tensor, weight: float) -> tuple[float, Tensor]:
        """The sum of a batch's losses in nats, and the gradient of ``weight`` times it by the student's
        last states [sequences, tokens, d]; that of its head is added."""
        total, parts = 0.0, []
        for goal, leaf in _pair_up(start.goal.read(), states[start.real], self._at_once):
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
            parts.append(leaf.grad)
        gradient = torch.zeros_like(states)
        gradient[start.real] = torch.cat(parts)
        return total, gradient

    @torch.no_grad()
    def measure(self, starts: Sequence[Start]) -> float:
        """Mean loss over the tokens of some batches, in nats."""
        total, count = 0.0, 0
        for chunk in chunks(starts, self.pair.student.chunk):
            for start, states in zip(chunk, self._follow(chunk), strict=True):
                goals = start.goal.read()
                for goal, own in _pair_up(goals, states.read()[start.real], self._at_once):
                    reference = self._log_probabilities(self.pair.teacher, goal)
                    with mixed(self.pair.teacher.model):
                        logits = self.pair.student.predict(own[None])[0]
                    total += float((reference.exp() * (reference - log_softmax(logits))).sum())
                count += len(goals)
        return total / count

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
        self._starts = self.distillation.start(held)

    def measure(self) -> float:
        return self.distillation.measure(self._starts)

    def train(self, course: Course) -> None:
        steps = zip(course.within(self._list_steps()), self._begin(course), strict=False)
        for rows, starts in steps:
            tokens = sum(map(len, rows))
            course.optimizer.zero_grad()
            loss = self.distillation.learn(starts, 1 / tokens)
            course.prepare(tokens, loss)
            course.optimizer.step()
            course.count(tokens, loss, tokens)

    def _list_steps(self) -> Iterator[list[list[int]]]:
        batches = self.batches
        return list_steps(batches.sequences, batches.batch_size, batches.lengths, self.training.seed)

    def _begin(self, course: Course) -> Iterator[list[Start]]:
        """What the steps to come start from; a few of them after one walk, where layers are brought one
        by one."""
        steps = islice(self._list_steps(), course.steps, None)
        most = 1 if self.distillation.pair.teacher.is_resident else AHEAD
        ahead = most if self.training.budget else 1  # how many fit into some seconds is not known
        while some := list(course.until_end(islice(steps, ahead))):
            parts = [split(rows, self.training.accumulate) for rows in some]
            batches = (Batch.of(part, pad=self.batches.pad) for each in parts for part in each)
            starts = deque(self.distillation.start(batches))
            yield from ([starts.popleft() for _ in each] for each in parts)
            ahead = min(2 * ahead, most)


def _pair_up(goals: Tensor, ends: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(goals.split(size), ends.split(size), strict=True)
