"""How large models and tasks are, as far as their time depends on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from replaceme.checkpoint import Checkpoint
from replaceme.io import contents

if TYPE_CHECKING:
    from bench.scoring.tasks import PreparedTask

CHARACTERS = 4  # of a token
GENERATED = 64  # tokens of a text that is generated, about
DECODING = 20.0  # tokens of a prompt that take as long as one that is generated
WRITING = 1.0  # the same where an engine writes many texts at once
USUAL = 1.4e-11  # seconds of a multiplication and addition: two cores of a server, float32


def count_shared(sequences: Sequence[Any]) -> int:
    """How many characters of texts, or tokens of sequences, all begin with."""
    first, last = min(sequences), max(sequences)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


@dataclass(frozen=True)
class ModelSize:
    """Numbers that a token is multiplied by.

    Attributes:
        layers: number of decoder layers.
        layer: parameters of one.
        head: of the output matrix.
    """

    layers: int = 32
    layer: float = 2e8
    head: float = 5e8

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> ModelSize:
        """By the headers of a checkpoint."""
        inside = outside = 0
        for name, tensor in contents.stored_tensors(checkpoint.folder).items():
            place = checkpoint.architecture.split(name)
            size = math.prod(tensor.entry.shape)
            inside, outside = (inside + size, outside) if place else (inside, outside + size)
        return cls(checkpoint.layers, inside / checkpoint.layers, outside)

    def run(self, tokens: float, layers: float, predictions: float = 0.0) -> float:
        """Seconds of tokens through layers, with the logits of some."""
        return USUAL * (tokens * layers * self.layer + predictions * self.head)


@dataclass(frozen=True)
class TaskSize:
    """Tokens of a task's distinct requests, about.

    Attributes:
        context: each context once.
        answers: of all choices and texts, and of what is generated.
        apart: contexts and answers where every request is by itself.
        requests: number of them.
        texts: prompts that a text is asked for, and the texts, as an engine takes them together.
    """

    context: float
    answers: float
    apart: float
    requests: int
    texts: float = 0.0

    @classmethod
    def of(cls, task: PreparedTask) -> TaskSize:
        """By the characters of its requests."""
        contexts: set[str] = set()
        prompts = [prompt for prompt, _ in task.texts_asked]
        shared = count_shared(prompts) if prompts else 0  # which an engine keeps
        written = min(GENERATED, task.count_written(GENERATED) / max(1, len(prompts)))
        answers = apart = texts = 0.0
        for instance in task.instances:
            *before, last = (part for part in instance.args if isinstance(part, str))
            if instance.request_type == "generate_until":  # its one text is the context
                before, length = [last], GENERATED * DECODING
                texts += instance.repeats * ((len(last) - shared) / CHARACTERS + written * WRITING)
            else:
                length = len(last) / CHARACTERS
            contexts.update(before)
            answers += length
            apart += length + sum(map(len, before)) / CHARACTERS
        return cls(sum(map(len, contexts)) / CHARACTERS, answers, apart, len(task.instances), texts)

    @classmethod
    def mean_of(cls, others: Iterable[TaskSize], limit: float | None) -> TaskSize:
        """What to take for a task that is not read yet; 500 items of 100 tokens where none is."""
        known = [*others]
        if not known:
            items = 500 if limit is None else int(limit) or round(500 * limit)
            return cls(90.0 * items, 10.0 * items, 100.0 * items, items)
        context, answers, apart, requests, texts = (
            sum(values) / len(known) for values in zip(*map(astuple, known), strict=True)
        )
        return cls(context, answers, apart, round(requests), texts)
